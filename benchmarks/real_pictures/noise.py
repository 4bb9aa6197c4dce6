"""Seeds, and which differences count: one below two standard deviations is none."""
import math
import statistics
from typing import Dict, Iterable, List, Optional

from benchmarks.shared.results import Record

NONE = 'no difference'


def by_network(records: Iterable[Record], metric: str) -> Dict[str, Dict[int, float]]:
    """Network -> seed -> metric."""
    out: Dict[str, Dict[int, float]] = {}
    for record in records:
        out.setdefault(record['network'], {})[record['seed']] = record['metrics'][metric]
    return out


def pooled(groups: Iterable[Iterable[float]]) -> Optional[float]:
    """The standard deviation within groups, of all that have two values or more; None if none has."""
    several = [group for group in map(list, groups) if len(group) > 1]
    if not several:
        return None
    squares = sum(statistics.variance(group) * (len(group) - 1) for group in several)
    return math.sqrt(squares / sum(len(group) - 1 for group in several))


def counts(difference: float, deviation: Optional[float]) -> bool:
    """Whether a difference is one; without a second seed nobody knows."""
    return deviation is not None and abs(difference) >= 2 * deviation


def verdict(difference: float, deviation: Optional[float], digits: int) -> str:
    if deviation is None:
        return f'{difference:+.{digits}f}, noise not known'
    if not counts(difference, deviation):
        return NONE
    return f'{"better" if difference > 0 else "behind"} by {abs(difference):.{digits}f}'


def shared(ours: Dict[int, float], others: Dict[int, float]) -> List[Dict[int, float]]:
    """The values of both for the seeds that both have."""
    seeds = sorted(set(ours) & set(others))
    return [{seed: side[seed] for seed in seeds} for side in (ours, others)]
