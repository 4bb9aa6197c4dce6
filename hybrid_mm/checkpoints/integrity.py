"""Is a checkpoint file whole, as it was written? torch writes checksums into its archives and never looks at them."""
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Optional, Tuple

NOT_WHOLE = 'is no checkpoint of PyTorch, or incomplete'
_LEGACY = b'\x80\x02'  # torch's format before 1.6, pickles one after the other, has no checksums
_BLOCK = 1 << 20
_FOLDER = 0x10  # the attribute of MS-DOS


def fault_of(path: str, pickle_alone: bool = False) -> Optional[str]:
    """Why a checkpoint file is not whole, in words that follow its name, or None.

    Every entry of the archive is read and compared with its checksum, several at a time; a file that has not changed since is
    not read twice by one process. Archives that torch wrote without checksums (``set_crc32_options(False)``), and the format of
    torch before 1.6, have none to compare.

    Args:
        path: the file.
        pickle_alone: look at the directory of the archive and at what is not tensors, which is quick.
    """
    try:
        return _fault_of(os.path.realpath(path), pickle_alone, file_key(path))
    except OSError as error:
        return f'cannot be read: {error.strerror}'


def file_key(path: str) -> Tuple[object, ...]:
    """What changes when a file is written anew; an OSError if it is not there."""
    stat = os.stat(path)
    return os.path.realpath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns


def is_legacy(path: str) -> bool:
    """Whether a file begins as torch wrote checkpoints before 1.6."""
    with open(path, 'rb') as file:
        return file.read(2) == _LEGACY


@lru_cache(maxsize=None)
def _fault_of(path: str, pickle_alone: bool, key: Tuple[object, ...]) -> Optional[str]:
    try:
        if os.path.getsize(path) == 0:
            return 'is empty'
        if is_legacy(path):
            return None
        with zipfile.ZipFile(path) as archive, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
            entries = [entry for entry in archive.infolist() if not pickle_alone or entry.filename.endswith('data.pkl')]
            if not any(entry.CRC for entry in entries):
                return None if entries else NOT_WHOLE
            whole = threads.map(lambda entry: _is_whole(archive, entry), entries)
            broken = [entry.filename for entry, is_whole in zip(entries, whole) if not is_whole]
    except OSError as error:
        return f'cannot be read: {error.strerror or error}'
    except Exception:  # a broken archive can raise almost anything: BadZipFile, struct.error, NotImplementedError, ...
        return NOT_WHOLE
    return f'is damaged: {broken[0].partition("/")[2] or broken[0]} in it differs from its checksum' if broken else None


def _is_whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    if entry.external_attr & _FOLDER and not entry.is_dir():  # torch would read what happens to be in its memory
        return False
    try:
        with archive.open(entry) as stream:  # compares the names, too, and at the end the checksum
            while stream.read(_BLOCK):
                pass
    except OSError:  # the disk's, which has a reason of its own
        raise
    except Exception:
        return False
    return True
