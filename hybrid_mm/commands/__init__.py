"""The commands: one file each, with ``parser()`` and ``run(args)``; the scripts in `tools/` are their front doors.

A fault that the user can mend ends with one sentence on stderr and exit status 1; any other exception keeps its traceback.
"""
import sys
from contextlib import contextmanager
from importlib import import_module
from traceback import walk_tb
from types import FrameType
from typing import Iterator, Optional, Sequence

from hybrid_mm.errors import SetupError, first_line

_WITHOUT_TORCH = ('check_env', 'hold_out', 'make_shapes', 'report')  # start at once, also where torch is broken or missing


def main(name: str, argv: Optional[Sequence[str]] = None) -> None:
    """Run a command.

    Args:
        name: of its module.
        argv: arguments of the command line, by default those of this process.

    Raises:
        SystemExit: the arguments are wrong (status 2), a fault that the user can mend (1), or what the command itself returns.
    """
    if name not in _WITHOUT_TORCH:
        from hybrid_mm.compat import flush_denormals, keep_freed_memory, mend_torchvision

        # before torch starts its threads, and before anything imports torchvision
        flush_denormals()
        keep_freed_memory()
        mend_torchvision()
    command = import_module(f'{__name__}.{name}')
    args = _parse(command, sys.argv[1:] if argv is None else [str(word) for word in argv])
    with one_sentence():
        status = command.run(args)
    if status:
        raise SystemExit(status)


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the program with one sentence where an exception has a cause that the user can mend, see `_sentence`."""
    try:
        yield
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        raise SystemExit(f'Error: {sentence}') from None


def _sentence(error: Exception) -> Optional[str]:
    """The message alone of a `SetupError` and of a bad value that this package found; what is wrong where a file cannot be used,
    where a part of a config refuses its settings, and where the shapes in a network do not meet. None for all else.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    raising = frames[-1]
    if isinstance(error, ValueError) and raising.f_code.co_name == '_serialize_data':  # mmengine's, which fails on an empty list
        return str(_empty(raising.f_locals['self']))
    if isinstance(error, SetupError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f'{error.filename} cannot be used: {error.strerror}; give another path, or mend this one'
    if isinstance(error, (ValueError, OSError)) and raising.f_globals.get('__name__', '').startswith('hybrid_mm.'):
        return str(error)
    builds = [frame for frame in frames if frame.f_code.co_name == 'build_from_cfg']  # of mmengine's registries
    checks = isinstance(error, AssertionError) or isinstance(error, ValueError) and raising.f_code.co_name == '__init__'
    if builds and checks and str(error):
        return f'{_kind(builds[-1])} of the config refuses its settings: {first_line(error)}'
    if 'torch' not in sys.modules:
        return None
    from hybrid_mm.failures import explain
    return explain(error)


def _parse(command, argv):
    """Its arguments; a command with ``PASSES_ON`` gets what it does not know in ``args.rest``, for another command."""
    if not getattr(command, 'PASSES_ON', False):
        return command.parser().parse_args(argv)
    args, args.rest = command.parser().parse_known_args(argv)
    return args


def _kind(frame: FrameType) -> str:
    """What a registry builds in a frame."""
    kind = frame.f_locals.get('obj_type') or frame.f_locals['cfg']['type']
    return kind if isinstance(kind, str) else kind.__name__


def _empty(dataset) -> SetupError:
    return SetupError(f'{type(dataset).__name__} has no images: of ann_file={dataset.ann_file!r} and '
                      f'data_prefix={dict(dataset.data_prefix)} none pass filter_cfg={dataset.filter_cfg}; '
                      'check these three')
