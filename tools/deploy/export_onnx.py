"""A network as an ONNX file, compared with torch: python tools/deploy/export_onnx.py CONFIG [CHECKPOINT] --out FILE.onnx"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

# before torch starts its threads, and before anything imports torchvision
flush_denormals()
mend_torchvision()

from hybrid_mm.deploy import export_onnx  # noqa: E402

if __name__ == '__main__':
    export_onnx()
