"""Metric over multiply-adds and over seconds of training."""
import statistics
from pathlib import Path
from typing import Any, List, NamedTuple, Sequence, Tuple

from PIL import Image

from hybrid_mm.output import save_figure

from .catalogue import NETWORKS

LOOKS = {  # told apart by colour and by shape
    'ours': dict(color='#1b6ca8', marker='o', label='ours'),
    'stock': dict(color='#c8501e', marker='s', label='stock'),
    'mark': dict(color='#4d4d4d', marker='*', label='with weights of ImageNet'),
}
_LINE = 7.5  # points between two names


class Point(NamedTuple):
    x: float
    y: float
    spread: float
    group: str
    name: str


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
    save_figure(figure, path)
    with Image.open(path) as picture:  # a third of the bytes
        few = picture.convert('RGB').quantize(64)
    few.save(path, optimize=True)


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


def name_points(ax: Any, points: Sequence[Point]) -> None:
    """Write the names at the right of the points, moved up where one would lie on another."""
    to_points = 72 / ax.figure.dpi
    placed: List[Tuple[float, float, float]] = []  # left, right and height of each name, in points
    for point in sorted(points, key=lambda point: point.y):
        x, at = ax.transData.transform((point.x, point.y)) * to_points
        left, right, y = x + 6, x + 6 + 3.9 * len(point.name), at
        while True:
            under = [height for start, end, height in placed if start < right and left < end and abs(height - y) < _LINE - 0.01]
            if not under:
                break
            y = max(under) + _LINE
        placed.append((left, right, y))
        ax.annotate(point.name, (point.x, point.y), (6, y - at), textcoords='offset points', fontsize=7, va='center',
                    color=LOOKS[point.group]['color'])
