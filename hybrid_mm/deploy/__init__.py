"""Networks for other programs: ONNX. `tools/deploy/export_onnx.py` is the command."""
from importlib import import_module
from typing import Optional, Sequence

from .networks import Network, build_network
from .onnx_file import TOLERANCE, write_onnx

__all__ = ['Network', 'TOLERANCE', 'build_network', 'write_onnx']


def export_onnx(argv: Optional[Sequence[str]] = None) -> None:
    """The command, which was here before version 0.2."""
    import_module('hybrid_mm.commands').main('export_onnx', argv)
