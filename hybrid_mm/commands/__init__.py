"""The commands: one file each, with ``parser()`` and ``run(args)``; the scripts in `tools/` are their front doors.

A fault that the user can mend ends with one sentence on stderr and exit status 1; any other exception keeps its traceback.
"""
import sys
from contextlib import contextmanager
from importlib import import_module
from traceback import walk_tb
from types import FrameType
from typing import Iterator, Optional, Sequence

from hybrid_mm.errors import SetupError

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
    """End the program with the message alone if the exception is a `SetupError`, or this package found a bad value."""
    try:
        yield
    except (ValueError, OSError) as error:
        frame = _raising_frame(error)
        if frame.f_code.co_name == '_serialize_data':  # mmengine's, which fails on an empty list
            error = _empty(frame.f_locals['self'])
        if isinstance(error, SetupError) or frame.f_globals.get('__name__', '').startswith('hybrid_mm.'):
            raise SystemExit(f'Error: {error}') from None
        raise


def _parse(command, argv):
    """Its arguments; a command with ``PASSES_ON`` gets what it does not know in ``args.rest``, for another command."""
    if not getattr(command, 'PASSES_ON', False):
        return command.parser().parse_args(argv)
    args, args.rest = command.parser().parse_known_args(argv)
    return args


def _raising_frame(error: BaseException) -> FrameType:
    return list(walk_tb(error.__traceback__))[-1][0]


def _empty(dataset) -> SetupError:
    return SetupError(f'{type(dataset).__name__} has no images: of ann_file={dataset.ann_file!r} and '
                      f'data_prefix={dict(dataset.data_prefix)} none pass filter_cfg={dataset.filter_cfg}; '
                      'check these three')
