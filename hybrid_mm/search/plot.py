"""A picture of a search: metric over MACs with the fronts, and the metric over the generations."""
import math
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from hybrid_mm.output import save_figure

from .store import Evaluation

_NUM_FRONTS = 4


def pareto_front(evaluations: Sequence[Evaluation]) -> List[Tuple[int, float]]:
    """MACs and metric of those evaluations that no cheaper or equal one reaches, from the cheapest on."""
    front: List[Tuple[int, float]] = []
    for e in sorted(evaluations, key=lambda e: (e.macs, *e.rank_key)):
        if not math.isnan(e.metric) and (not front or e.metric > front[-1][1]):
            front.append((e.macs, e.metric))
    return front


def plot_search(path: Path, history: Sequence[Sequence[Evaluation]], metric: str, limit: Optional[int] = None) -> None:
    """Draw a search as PNG.

    Left: all evaluations over their MACs, by generation, the fronts after up to four of the generations, and the limit. Right:
    the best, the mean and the running best metric of each generation; a line stands between the stages.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout='constrained')
    left, right = figure.subplots(1, 2)
    points = [(e.macs / 1e9, e.metric, number) for number, generation in enumerate(history, 1) for e in generation]
    if points:
        macs, metrics, generations = zip(*points)
        dots = left.scatter(macs, metrics, c=generations, s=12, cmap='viridis', alpha=0.7)
        figure.colorbar(dots, ax=left, label='generation')
    last = len(history)
    for number in sorted({max(1, round(last * k / _NUM_FRONTS)) for k in range(1, _NUM_FRONTS + 1)} if last else ()):
        front = pareto_front([e for generation in history[:number] for e in generation])
        if front:
            left.step([x / 1e9 for x, _ in front], [y for _, y in front], where='post', lw=1 + number / last,
                      alpha=0.4 + 0.6 * number / last, label=f'front after generation {number}')
    if limit is not None:
        left.axvline(limit / 1e9, color='black', ls='--', lw=1, label='limit')
    left.set(xlabel='MACs, $10^9$', ylabel=metric)
    if left.get_legend_handles_labels()[0]:
        left.legend(fontsize='small')

    numbers = range(1, last + 1)
    values = [[e.metric for e in generation if not math.isnan(e.metric)] or [math.nan] for generation in history]
    best = [max(v) for v in values]
    right.plot(numbers, best, 'o', ms=4, label='best of the generation')
    right.plot(numbers, [sum(v) / len(v) for v in values], '.', color='grey', label='mean of the generation')
    right.step(numbers, [max(best[:i]) for i in numbers], where='post', label='best so far')
    for number in range(1, last):
        if history[number][0].stage != history[number - 1][0].stage:
            right.axvline(number + 0.5, color='black', ls=':', lw=1, label=f'stage {history[number][0].stage} begins')
    right.set(xlabel='generation', ylabel=metric)
    if last:
        right.legend(fontsize='small')

    save_figure(figure, path)
