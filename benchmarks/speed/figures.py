"""Figures of an entry beside others of its run: each a list with one value a round, or one value alone."""
import statistics
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from benchmarks.shared.results import Record

from .catalogue import BASE, GOAL_SIZE, MODES, NETWORKS, Goal
from .measuring import MATMUL, TRIAD
from .records import FIELDS

Values = Optional[List[float]]


def time_of_base(record: Record, key: str) -> Values:
    """Seconds over those of the base."""
    return _over(record, key, BASE)


def rate(record: Record, key: str) -> Values:
    """Multiply-adds a second over those of the base."""
    times, own, base = time_of_base(record, key), record['networks'].get(key), record['networks'].get(BASE)
    return times and [own['macs'] / base['macs'] / each for each in times]


def memory(record: Record, key: str) -> Values:
    """Weights and what a step holds beside them, over those of the base."""
    own, base = (bytes_of(record, each) for each in (key, BASE))
    return [own / base] if own and base else None


def share(record: Record, key: str) -> Values:
    """Operations a second over those of the product of large matrices."""
    return _of_limit(record, key, MATMUL, operations(record, key))


def share_of_bandwidth(record: Record, key: str) -> Values:
    """Bytes that operators read and write a second, over those of the sum of long vectors."""
    return _of_limit(record, key, TRIAD, record['networks'][key].get('moved'))


def optimised(record: Record, network: str) -> Values:
    return _over(record, f'{network}:optimised', network)


def compiled(record: Record, network: str) -> Values:
    return _over(record, f'{network}:compiled', network)


def growth(record: Record, network: str) -> Values:
    """Growth of the time from the first to the second size over that of the multiply-adds."""
    large = f'{network}@1'
    times = _over(record, large, network)
    return times and [each * record['networks'][network]['macs'] / record['networks'][large]['macs'] for each in times]


FIGURES: Dict[str, Callable[[Record, str], Values]] = dict(
    time=time_of_base, rate=rate, memory=memory, share=share, optimised=optimised, compiled=compiled)


def operations(record: Record, key: str) -> int:
    """Two a multiply-add, of a step."""
    return 2 * record['networks'][key]['macs'] * MODES[record['mode']]


def bytes_of(record: Record, key: str) -> Optional[int]:
    """Weights, and the most that a step held beside them."""
    entry = record['networks'].get(key)
    return entry['weights'] + entry['step_memory'] if entry and entry.get('step_memory') is not None else None


def value_of(goal: Goal, records: Sequence[Record]) -> Optional[Tuple[float, float, float]]:
    """Median and quartiles of what a goal is about in the newest run that tells; None if none does."""
    if goal.network == 'median':
        each = [value_of(goal._replace(network=name), records) for name, network in NETWORKS.items() if network.group == 'ours']
        found = [value[0] for value in each if value]
        return spread(found) if found else None
    for record in newest_first(records):
        if (record['device'], record['size'], record['mode'], record['dtype']) == ('cpu', GOAL_SIZE, goal.mode, goal.dtype):
            values = FIGURES[goal.figure](record, goal.network) if goal.network in record['networks'] else None
            if values:
                return spread(values)
    return None


def newest_first(records: Sequence[Record]) -> List[Record]:
    return sorted(records, key=lambda record: record['date'], reverse=True)


def newest(records: Sequence[Record]) -> Dict[Tuple, Dict[str, Record]]:
    """Settings of a run, in the order of the page -> key of an entry -> the newest run that has it."""
    cells: Dict[Tuple, Dict[str, Record]] = {}
    for record in sorted(records, key=lambda record: (record['machine'], record['device'], record['threads'], record['torch'],
                                                      record['dtype'] != 'fp32', record['dtype'], _pixels(record),
                                                      record['mode'], record['date'])):
        cell = cells.setdefault(tuple(record[field] for field in FIELDS), {})
        cell.update({key: record for key, entry in record['networks'].items() if entry['seconds']})
    return {settings: cell for settings, cell in cells.items() if cell}


def spread(values: Sequence[float]) -> Tuple[float, float, float]:
    """Median, lower and upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    lower, _, upper = statistics.quantiles(values, n=4, method='inclusive')
    return statistics.median(values), lower, upper


def _over(record: Record, key: str, other: str) -> Values:
    """Seconds of one entry over those of another in the same rounds."""
    own, base = (record['networks'].get(each, {}).get('seconds') for each in (key, other))
    return [mine / its for mine, its in zip(own, base)] if own and base else None


def _of_limit(record: Record, key: str, limit: str, work: Optional[int]) -> Values:
    found = record['limits'].get(limit)
    if work is None or not found:
        return None
    return [work / own / (found['work'] / its) for own, its in zip(record['networks'][key]['seconds'], found['seconds'])]


def _pixels(record: Record) -> int:
    height, _, width = record['size'].partition('+')[0].partition('x')
    return int(height) * int(width or height)
