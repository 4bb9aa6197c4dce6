"""Files and folders that a tool writes: nothing is overwritten unasked, and a file is whole or not there."""
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from hybrid_mm.errors import SetupError


def check_out_folder(path: Path, force: bool = False) -> None:
    """See that a folder can take the output: it is empty or not there.

    Args:
        path: the folder.
        force: allow one that holds something, whose files of the same names are then overwritten.

    Raises:
        SetupError: it is a file, lies below one, or holds something.
    """
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise SetupError(f'--out {path} is not allowed, since {folder} is a file; give a folder')
    if not force and path.is_dir() and any(path.iterdir()):
        raise SetupError(f'--out {path} is not empty; give another folder, or pass --force to overwrite what has the same name')


def check_out_file(path: Path, suffixes: Sequence[str], force: bool = False) -> None:
    """See that a file can be written.

    Args:
        path: the file.
        suffixes: allowed endings, such as ``'.png'``.
        force: allow a file that exists.

    Raises:
        SetupError: it has another ending, its folder is not there, it is a folder itself, or it exists.
    """
    if path.suffix not in suffixes:
        raise SetupError(f'--out {path} is not allowed; give a file that ends in {", ".join(suffixes)}')
    if not path.parent.is_dir():
        raise SetupError(f'the folder {path.parent} of --out {path} does not exist; make it, or give another file')
    if path.is_dir():
        raise SetupError(f'--out {path} is a folder; give a file')
    if path.exists() and not force:
        raise SetupError(f'--out {path} exists; give another file, or pass --force to overwrite it')


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; the file takes its place when the block ends without an error."""
    partial = path.with_name(f'{path.name}.{os.getpid()}.partial')
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
