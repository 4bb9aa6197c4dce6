"""Files that are whole or not there."""
import errno
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from .errors import SetupError

# what torch.save says where a file cannot grow; the reason of the system is lost in it
_TORCH_CANNOT_WRITE = re.compile(r'inline_container|PytorchStreamWriter|^write\(\): fd')


@contextmanager
def whole_file(path: Path, advice: str = '') -> Iterator[Path]:
    """A name beside `path` to write to; what is there is flushed to the disk and takes the place of `path` when the block ends
    without an error, so that after a kill or a power cut there is the old file or the new one.

    Args:
        path: the file.
        advice: end of the sentence if it cannot be written.

    Raises:
        SetupError: it cannot be written, as the disk is full, say.
    """
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    try:
        yield partial
        _flush(partial)
        os.replace(partial, path)
        _flush(path.parent)
    except OSError as error:
        raise SetupError(f'{path} cannot be written: {error.strerror or error}{advice}') from error
    except RuntimeError as error:
        if not _TORCH_CANNOT_WRITE.search(str(error)):
            raise
        raise SetupError(f'{path} cannot be written: the disk is full, or a limit is reached{advice}') from error
    finally:
        partial.unlink(missing_ok=True)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, the same bytes for the same content; the ending of the file says the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, whatever the user's settings
    FigureCanvasAgg(figure)
    undated = {'.png': {'Software': None}, '.pdf': {'CreationDate': None}, '.svg': {'Date': None}}
    with whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=120, metadata=undated[path.suffix])


def _flush(path: Path) -> None:
    """Have the system write a file, or the names in a folder, to the disk, where it knows how to."""
    try:
        number = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():  # Windows opens no folders
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # a file system without it
            raise
    finally:
        os.close(number)
