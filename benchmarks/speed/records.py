"""The results: one record a run."""
import hashlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, List, Tuple

import torch

from benchmarks.shared import results
from benchmarks.shared.results import ROOT, Record, machine

from .catalogue import BASE
from .measuring import Cell

FIELDS = ('machine', 'device', 'threads', 'size', 'batch', 'mode', 'dtype', 'torch')  # the settings of a run
_KEY = (*FIELDS, 'code', 'date')
_CODE = 'hybrid_mm/layers', 'hybrid_mm/backbones', 'hybrid_mm/deploy', 'configs/_base_/backbones'  # what the figures are of


def new(cell: Cell, rounds: int) -> Record:
    """A record without results."""
    found = machine('benchmarks/speed')
    if cell.device != 'cpu':
        found['machine'] = torch.cuda.get_device_name(cell.device)
    return dict(found, size=cell.size, batch=cell.sizes[0][0], mode=cell.mode, dtype=cell.dtype,
                device=cell.device.partition(':')[0], threads=cell.threads, torch=torch.__version__, code=code(), rounds=rounds,
                date=datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M:%S.%f'), networks={}, limits={}, left_out={})


def code() -> str:
    """A fingerprint of the code that is measured: other pages and commands change without a new one."""
    digest = hashlib.sha1()
    for path in sorted(path for folder in _CODE for path in (ROOT / folder).rglob('*.py')):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:10]


def same_settings(one: Record, other: Record) -> bool:
    return all(one[field] == other[field] for field in FIELDS)


def is_whole(record: Record, key: str, memory: bool = True) -> bool:
    """Whether all rounds of an entry are there, and its memory where this is asked for."""
    entry = record['networks'].get(key)
    return entry is not None and len(entry['seconds']) >= record['rounds'] and ('step_memory' in entry or not memory)


def read(path: Path) -> List[Record]:
    """See `results.read`."""
    return results.read(path, _known_by)


def write(path: Path, record: Record) -> None:
    """Put a record into the file, in the place of itself and of older ones whose networks it has all measured."""
    measured = {key for key in record['networks'] if is_whole(record, key, memory=False)}
    results.add(path, _known_by, record,
                lambda other: same_settings(other, record) and set(other['networks']) - {BASE} <= measured)


def _known_by(record: Record) -> Tuple[Any, ...]:
    return tuple(record[field] for field in _KEY)
