"""Results: one record a run, in a JSON file that is whole at any time."""
import fcntl
import json
import os
import platform
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file

ROOT = Path(__file__).resolve().parents[2]

Record = Dict[str, Any]
Key = Callable[[Record], Tuple[Any, ...]]  # what a record is known by, in the order of the file


def read(path: Path, key: Key) -> List[Record]:
    """The records of a file; none where there is no file.

    Raises:
        SetupError: it holds something else.
    """
    if not path.exists():
        return []
    try:
        return sorted(json.loads(path.read_text()), key=key)
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f'{path} holds no results of this benchmark ({type(error).__name__}); give another file') from None


def add(path: Path, key: Key, record: Record, replaces: Callable[[Record], bool] = lambda other: False) -> None:
    """Put a record into the file, in the place of the one with its key and of those that it replaces; several processes may do
    so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        kept = [other for other in read(path, key) if key(other) != key(record) and not replaces(other)]
        lines = [json.dumps(each, sort_keys=True) for each in sorted([*kept, record], key=key)]
        with whole_file(path) as partial:
            partial.write_text('[\n' + ',\n'.join(lines) + '\n]\n')


def machine(*folders: str) -> Dict[str, Any]:
    """What the figures were measured on, and with which state of the code: of these folders, configs, package and tools."""
    cpuinfo = Path('/proc/cpuinfo')
    names = [line.split(':', 1)[1].strip() for line in cpuinfo.read_text().splitlines()
             if line.startswith('model name')] if cpuinfo.exists() else []
    changed = _git('status', '--porcelain', '-uno', '--', *folders, 'configs', 'hybrid_mm', 'tools')
    return dict(machine=names[0] if names else platform.processor() or platform.machine(), cores=os.cpu_count(),
                commit=_git('rev-parse', '--short', 'HEAD') + ('+' if changed else ''))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    number = os.open(path.parent, os.O_RDONLY)  # the folder, as the file is replaced
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _git(*words: str) -> str:
    return subprocess.run(['git', *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
