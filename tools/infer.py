"""Run a network on your own pictures or video: python tools/infer.py CONFIG CHECKPOINT IMAGE|FOLDER|VIDEO [options]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the clone, without an installation

from hybrid_mm.compat import flush_denormals, keep_freed_memory, mend_torchvision  # noqa: E402

# before torch starts its threads, and before anything imports torchvision
flush_denormals()
keep_freed_memory()
mend_torchvision()

from hybrid_mm.inference import infer  # noqa: E402

if __name__ == '__main__':
    infer()
