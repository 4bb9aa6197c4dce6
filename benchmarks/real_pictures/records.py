"""The results: one record a run, in a JSON file that is whole at any time."""
import fcntl
import json
import os
import platform
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file

ROOT = Path(__file__).resolve().parents[2]
FIELDS = ('task', 'network', 'recipe', 'steps', 'pretraining', 'seed')  # what a record is known by, in the order of the file

Record = Dict[str, Any]


def key_of(record: Record) -> Tuple[Any, ...]:
    return tuple(record[field] for field in FIELDS)


def read(path: Path) -> List[Record]:
    """The records of a file; none where there is no file.

    Raises:
        SetupError: it holds something else.
    """
    if not path.exists():
        return []
    try:
        records = json.loads(path.read_text())
        return sorted(records, key=key_of)
    except (ValueError, KeyError, TypeError) as error:
        raise SetupError(f'{path} holds no results of this benchmark ({type(error).__name__}); give another file') from None


def add(path: Path, record: Record) -> None:
    """Put a record into the file, in the place of one with its key; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path):
        records = [other for other in read(path) if key_of(other) != key_of(record)]
        lines = [json.dumps(each, sort_keys=True) for each in sorted([*records, record], key=key_of)]
        with whole_file(path) as partial:
            partial.write_text('[\n' + ',\n'.join(lines) + '\n]\n')


@contextmanager
def alone(path: Path) -> Iterator[None]:
    number = os.open(path.parent, os.O_RDONLY)  # the folder, as the file is replaced
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def machine() -> Dict[str, Any]:
    """What the figures were measured on, and with which state of the code."""
    cpuinfo = Path('/proc/cpuinfo')
    names = [line.split(':', 1)[1].strip() for line in cpuinfo.read_text().splitlines()
             if line.startswith('model name')] if cpuinfo.exists() else []
    changed = _git('status', '--porcelain', '-uno', '--', 'benchmarks/real_pictures', 'configs', 'hybrid_mm', 'tools')
    return dict(machine=names[0] if names else platform.processor() or platform.machine(), cores=os.cpu_count(),
                commit=_git('rev-parse', '--short', 'HEAD') + ('+' if changed else ''))


def _git(*words: str) -> str:
    return subprocess.run(['git', *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
