"""Time of a step over its multiply-adds."""
import statistics
from pathlib import Path
from typing import Dict, Sequence, Tuple

from benchmarks.shared.drawing import LOOKS, Point, name_points, save
from benchmarks.shared.results import Record

from .catalogue import NETWORKS


def plot_times(path: Path, panels: Sequence[Tuple[str, Dict[str, Record]]]) -> None:
    """A panel for each of the titles with their entries; a bar reaches from quartile to quartile. Forms but the eager one are
    hollow. On lines that rise to the right the rate is the same."""
    from matplotlib.figure import Figure

    from .figures import spread

    drawn = []
    figure = Figure(figsize=(4.6 * len(panels), 4), layout='constrained')
    for ax, (title, cell) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        points = []
        for key, record in cell.items():
            entry = record['networks'][key]
            network, (median, lower, upper) = NETWORKS[entry['network']], spread(entry['seconds'])
            look = {key: value for key, value in LOOKS[network.group].items() if key != 'label'}
            ax.errorbar([entry['macs'] / 1e9], [median], [[median - lower], [upper - median]], ls='', capsize=2, lw=1, ms=5,
                        mfc=look['color'] if entry['form'] == 'eager' else 'white', **look)
            if entry['form'] == 'eager':
                points.append(Point(entry['macs'] / 1e9, median, 0., network.group, network.title))
        for group in ('ours', 'stock'):
            ax.plot([], [], ls='', ms=5, **LOOKS[group])
        _lines(ax, [entry for key, record in cell.items() for entry in [record['networks'][key]]])
        ax.set(xscale='log', yscale='log', xlabel='multiply-adds of a forward pass, $10^9$', ylabel='seconds of a step')
        ax.set_title('\n'.join(title.rsplit(', ', 1)) if len(title) > 50 else title, fontsize=7)
        ax.margins(x=0.25)
        ax.grid(alpha=0.25, lw=0.5)
        drawn.append((ax, points))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize='small', loc='outside lower center', ncols=2)
    figure.draw_without_rendering()  # which says where the points are in the picture
    for ax, points in drawn:
        name_points(ax, points)
    save(figure, path)


def _lines(ax, entries: Sequence[dict]) -> None:
    """Lines of equal rates through the fastest and the slowest network for their work."""
    rates = [statistics.median(entry['seconds']) / entry['macs'] for entry in entries]
    ends = [min(entry['macs'] for entry in entries), max(entry['macs'] for entry in entries)]
    for rate in (min(rates), max(rates)):
        ax.plot([end / 1e9 for end in ends], [end * rate for end in ends], color='#999999', lw=0.7, ls='--', zorder=0)
