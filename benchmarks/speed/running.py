"""Runs the processes that measure, one after the other, and writes what they send."""
import multiprocessing
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from benchmarks.shared.results import Record

from . import records
from .catalogue import BASE, Entry
from .forms import facts
from .measuring import MATMUL, TRIAD, Cell, Job, Work, measure_memory, time_in_turn
from .records import is_whole


class Settings(NamedTuple):
    """How all cells are measured."""
    out: Path
    rounds: int
    again: bool = False
    memory: bool = True
    deadline: Optional[float] = None  # in the time of `time.time`


def plan(cell: Cell, entries: Sequence[Entry], settings: Settings) -> Tuple[List[Entry], Optional[Record]]:
    """What of a cell is left to do, with the base of its ratios if anything is, and the record of a run that was stopped and
    had the same entries, which goes on."""
    now = records.new(cell, settings.rounds)
    same = [] if settings.again else [
        record for record in records.read(settings.out)
        if records.same_settings(record, now) and record['code'] == now['code'] and record['rounds'] >= settings.rounds]
    left = [entry for entry in entries if not any(is_whole(record, entry.key, settings.memory) for record in same)]
    if not left:
        return [], None
    # what the others are compared with is in the run, too
    base = [entry for entry in entries if entry == Entry(BASE)]
    left = list(dict.fromkeys([*base, *(entry._replace(form='eager') for entry in left), *left]))
    keys = {entry.key for entry in left}
    for record in same:
        if all(is_whole(record, key, memory=False) for key in keys):  # stopped while it measured memory
            return left, record
        if keys == {*record['networks'], *record['left_out']}:
            return [entry for entry in left if entry.key in record['networks']], record
    return left, None


def measure(cell: Cell, entries: Sequence[Entry], record: Optional[Record], settings: Settings, deadline: Optional[float],
            tell: Callable[[str], None]) -> Record:
    """Run the rounds of a cell that are missing, then the memory of each entry; the file is whole after each result."""
    record = record or records.new(cell, settings.rounds)
    done = min((len(entry['seconds']) for entry in record['networks'].values()), default=0)
    if done < settings.rounds:
        for kind, key, found in _messages(time_in_turn, Job(cell, entries, settings.rounds - done, deadline)):
            _take(record, cell, kind, key, found, tell)
            if kind == 'round':
                records.write(settings.out, record)
    for entry in entries if settings.memory and cell.device == 'cpu' else ():
        own = record['networks'].get(entry.key)
        if own is None or 'step_memory' in own or (settings.deadline and time.time() > settings.deadline):
            continue
        for message in _messages(measure_memory, Job(cell, [entry], 0)):
            _take(record, cell, *message, tell)
        records.write(settings.out, record)
    records.write(settings.out, record)
    return record


def _take(record: Record, cell: Cell, kind: str, key: str, found: Any, tell: Callable[[str], None]) -> None:
    """Put a message of a process into the record."""
    if kind == 'left out':
        record['left_out'][key] = found
        tell(f'{cell.name}: {key} left out: {found}')
    elif kind == 'facts' and key in (MATMUL, TRIAD):
        record['limits'].setdefault(key, dict(found, seconds=[]))
    elif kind == 'facts':
        entry = _entry(key)
        record['left_out'].pop(key, None)
        own = record['networks'].setdefault(key, dict(
            network=entry.network, form=entry.form, seconds=[], **_facts(entry.network, cell.sizes[entry.size])))
        own.update(found)
    elif kind == 'round':
        for name, taken in found.items():
            own = record['limits'] if name in (MATMUL, TRIAD) else record['networks']
            own[name]['seconds'].append(taken)


def _entry(key: str) -> Entry:
    rest, _, size = key.partition('@')
    network, _, form = rest.partition(':')
    return Entry(network, form or 'eager', int(size or 0))


_facts = lru_cache(maxsize=None)(facts)


def _messages(work: Work, job: Job) -> Iterator[Tuple[str, str, Any]]:
    """What a new process sends. One that ends early leaves out whatever it had not measured, with a sentence.

    On a CPU it is a fork of this one, which has loaded the libraries, and runs nothing in threads itself.
    """
    context = multiprocessing.get_context('fork' if job.cell.device == 'cpu' else 'spawn')
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(theirs, job))
    process.start()
    theirs.close()
    ended = False
    try:
        while not ended:
            message = ours.recv()
            ended = message[0] == 'end'
            if not ended:
                yield message
    except EOFError:
        process.join()  # what its status is
    finally:
        if not ended:
            process.terminate()
        process.join()
    for entry in () if ended else job.entries:
        yield 'left out', entry.key, f'its process ended with status {process.exitcode}; -9 says that memory was short'
