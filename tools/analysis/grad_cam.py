"""Class activation maps: python tools/analysis/grad_cam.py CONFIG CHECKPOINT IMAGE|FOLDER [--class NAME] [--out DIR]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

# before torch starts its threads, and before anything imports torchvision, as grad-cam does
flush_denormals()
mend_torchvision()

from hybrid_mm.analysis.cam_report import main  # noqa: E402

if __name__ == '__main__':
    main()
