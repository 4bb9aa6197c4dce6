"""Files that are whole or not there."""
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from .errors import SetupError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; the file takes its place when the block ends without an error.

    Raises:
        SetupError: it cannot be written, as the disk is full, say.
    """
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        raise SetupError(f'{path} cannot be written: {error}') from error
    finally:
        partial.unlink(missing_ok=True)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib, the same bytes for the same content; the ending of the file says the format."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no window, whatever the user's settings
    FigureCanvasAgg(figure)
    undated = {'.png': {'Software': None}, '.pdf': {'CreationDate': None}, '.svg': {'Date': None}}
    with whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=120, metadata=undated[path.suffix])
