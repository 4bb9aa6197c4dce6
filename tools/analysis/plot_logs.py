"""Draw losses and metrics of trainings: python tools/analysis/plot_logs.py WORK_DIR... [--keys loss mIoU] [--out curves.png]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation

from hybrid_mm.compat import mend_torchvision  # noqa: E402

mend_torchvision()  # before anything imports it

from hybrid_mm.analysis.logs import main  # noqa: E402

if __name__ == '__main__':
    main()
