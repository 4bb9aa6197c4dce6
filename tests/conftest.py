"""What every test needs before the first import of torch's operators or of OpenMMLab."""
import os
import sys
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '2')
ROOT = Path(__file__).resolve().parents[1]
# the clone itself, and this folder for the plain definitions in `reference/`
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

flush_denormals()
mend_torchvision()
