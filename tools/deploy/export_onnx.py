"""A network as an ONNX file: python tools/deploy/export_onnx.py CONFIG [CHECKPOINT] --out FILE.onnx"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation
from hybrid_mm.commands import main  # noqa: E402

if __name__ == '__main__':
    main('export_onnx')
