"""Class activation maps of a network: python tools/analysis/grad_cam.py CONFIG CHECKPOINT IMAGE|FOLDER [options]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation
from hybrid_mm.commands import main  # noqa: E402

if __name__ == '__main__':
    main('grad_cam')
