"""Effective receptive fields: python tools/analysis/erf.py CONFIG... [--stage N] [--images DIR] [--out erf.png]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

# before torch starts its threads, and before anything imports torchvision
flush_denormals()
mend_torchvision()

from hybrid_mm.analysis.erf_report import main  # noqa: E402

if __name__ == '__main__':
    main()
