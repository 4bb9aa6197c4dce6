"""The results: one record a run."""
from pathlib import Path
from typing import Any, List, Tuple

from benchmarks.shared import results
from benchmarks.shared.results import Record

FIELDS = ('task', 'network', 'recipe', 'steps', 'pretraining', 'seed')  # what a record is known by, in the order of the file


def key_of(record: Record) -> Tuple[Any, ...]:
    return tuple(record[field] for field in FIELDS)


def read(path: Path) -> List[Record]:
    """See `results.read`."""
    return results.read(path, key_of)


def add(path: Path, record: Record) -> None:
    """Put a record into the file, in the place of one with its key."""
    results.add(path, key_of, record)
