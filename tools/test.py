"""Evaluate a detector, a segmentor or a classifier: python tools/test.py CONFIG CHECKPOINT [options]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the clone, without an installation

from hybrid_mm.compat import flush_denormals, keep_freed_memory, mend_torchvision  # noqa: E402

# before torch starts its threads, and before anything imports torchvision
flush_denormals()
keep_freed_memory()
mend_torchvision()

from hybrid_mm.engine.launch import test  # noqa: E402

if __name__ == '__main__':
    test()
