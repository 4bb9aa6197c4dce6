"""Metric over multiply-adds and over seconds of training."""
import statistics
from pathlib import Path
from typing import Any, Sequence

from benchmarks.shared.drawing import LOOKS, Point, name_points, save

from .catalogue import NETWORKS


def plot_task(path: Path, group: Any) -> None:
    """Two panels of one `page.Group`; a bar is a standard deviation to each side."""
    from matplotlib.figure import Figure

    shown = [*group.by_network(group.of('ours', 'stock')), *group.by_network(group.of('mark', pretraining='imagenet'))]
    figure = Figure(figsize=(9, 3.8), layout='constrained')
    panels = [('multiply-adds of the network, $10^9$', lambda same: same[0]['macs'] / 1e9),
              ('seconds of training', lambda same: statistics.mean(each['training_seconds'] for each in same))]
    metric = next(iter(group.task.metrics))
    drawn = []
    for ax, (label, x_of) in zip(figure.subplots(1, len(panels), sharey=True), panels):
        points = [_point(same, x_of(same), group.metric) for same in shown]
        for kind, look in LOOKS.items():
            own = [point for point in points if point.group == kind]
            if own:
                ax.errorbar([p.x for p in own], [p.y for p in own], [p.spread for p in own], ls='', capsize=2, lw=1,
                            ms=11 if kind == 'mark' else 6, **look)
        _scale(ax, points)
        ax.set(xlabel=label, ylabel=f'{metric}, {group.task.part}' if ax is figure.axes[0] else '')
        ax.grid(alpha=0.25, lw=0.5)
        drawn.append((ax, points))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize='small', loc='outside lower center', ncols=len(LOOKS))
    figure.suptitle(group.title, fontsize='medium')
    figure.draw_without_rendering()  # which says where the points are in the picture
    for ax, points in drawn:
        name_points(ax, points)
    save(figure, path)


def _point(same: Sequence[dict], x: float, metric: str) -> Point:
    values = [record['metrics'][metric] for record in same]
    return Point(x, statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0., same[0]['group'],
                 NETWORKS[same[0]['network']].title)


def _scale(ax: Any, points: Sequence[Point]) -> None:
    """A logarithmic axis with plain numbers, and room at the right for the names."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
    ax.set_xscale('log')
    least, most = min(p.x for p in points), max(p.x for p in points)
    ax.set_xlim(least * 0.85, most * max(most / least, 1.5)**0.4)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_formatter(NullFormatter())
