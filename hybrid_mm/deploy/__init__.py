"""Networks for other programs: ONNX. `tools/deploy/export_onnx.py` is the command."""
from .networks import Network, build_network
from .onnx_file import TOLERANCE, write_onnx

__all__ = ['Network', 'TOLERANCE', 'build_network', 'write_onnx']


def __getattr__(name: str):
    if name == 'export_onnx':  # the command was here before 0.2
        from functools import partial
        from importlib import import_module
        return partial(import_module('hybrid_mm.commands').main, 'export_onnx')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
