"""Networks ready for inference, `optimise`; and for other programs, as ONNX: `tools/deploy/export_onnx.py` is the command.

Importing the package needs torch alone.
"""
from importlib import import_module
from typing import Any, Optional, Sequence

from .optimise import optimise

_PLACES = dict(Network='networks', build_network='networks', TOLERANCE='onnx_file', write_onnx='onnx_file')

__all__ = ['Network', 'TOLERANCE', 'build_network', 'optimise', 'write_onnx']  # noqa: F822  # some come with `__getattr__`


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(f'{__name__}.{_PLACES[name]}'), name)


def export_onnx(argv: Optional[Sequence[str]] = None) -> None:
    """The command, which was here before version 0.2."""
    import_module('hybrid_mm.commands').main('export_onnx', argv)
