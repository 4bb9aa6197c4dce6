"""The tables and plots of docs/speed.md, from the results."""
import statistics
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from benchmarks.shared.pages import fill, table
from benchmarks.shared.results import Record

from . import figures
from .catalogue import FORMS, GOALS, GROWTH_LIMIT, GROWTH_SIZES, MODES, NETWORKS
from .measuring import MATMUL, TRIAD
from .plots import plot_times
from .records import FIELDS

PAGE = 'docs/speed.md'
_HEAD = ['network', 'GMACs', 'time, s', "time over Swin-T's", "MACs a second over Swin-T's", 'GMACs a second', 'TFLOP/s',
         'share of the matrix peak', 'share of the bandwidth', 'memory, MiB', "memory over Swin-T's"]
Cell = Dict[str, Record]


def write_page(root: Path, records: Sequence[Record]) -> List[str]:
    """Write tables and plots; returns the names of the files."""
    page, written = root / PAGE, [PAGE]
    page.write_text(render(page.read_text(), records))
    for name, cells in plots_of(records).items():
        plot_times(root / 'docs' / name, cells)
        written.append(f'docs/{name}')
    return written


def render(text: str, records: Sequence[Record]) -> str:
    """The page with the tables that the records give."""
    parts = dict(goals=goals_table(records), results=results(records), growth=growth_table(records),
                 machines=machines_table(records))
    return fill(text, PAGE, 'speed', parts)


def goals_table(records: Sequence[Record]) -> str:
    """Each goal, and whether it is reached."""
    rows = []
    for goal in GOALS:
        found = figures.value_of(goal, records)
        if found is not None:
            rows.append([goal.what, goal.before or '–', _quartiles(found, 2), goal.text, 'yes' if goal.met(found[0]) else 'no'])
    return table(['what', 'before', 'now, with quartiles', 'goal', 'reached'], rows)


def results(records: Sequence[Record]) -> str:
    """Tables, and the plots of what they show."""
    parts = []
    for settings, cell in figures.newest(records).items():
        if '+' not in dict(zip(FIELDS, settings))['size']:
            parts += [f'### {title(settings)}', cell_table(cell)]
    parts += [f'![Time of a step over its multiply-adds]({name})' for name in plots_of(records)]
    return '\n\n'.join(parts) or table([], [])


def title(settings: Tuple) -> str:
    own = dict(zip(FIELDS, settings))
    size = own['size'].replace('x', '×')
    return f'{size}, batch of {own["batch"]}, {own["mode"]}, {own["dtype"]}, {_machine(own)}'


def _machine(own: Dict[str, Any]) -> str:
    threads = f', {own["threads"]} thread{"s" if own["threads"] > 1 else ""}' if own['device'] == 'cpu' else ''
    return f'{own["machine"]}{threads}'


def cell_table(cell: Cell) -> str:
    """A row for each entry: ours, then the others; forms below their network."""
    order = list(NETWORKS)

    def place(key: str) -> Tuple[int, int]:
        entry = cell[key]['networks'][key]
        return order.index(entry['network']), list(FORMS).index(entry['form'])

    return table(_HEAD, [_row(cell[key], key) for key in sorted(cell, key=place)])


def _row(record: Record, key: str) -> List[str]:
    entry = record['networks'][key]
    form = FORMS[entry['form']]
    rate = figures.operations(record, key) / statistics.median(entry['seconds'])
    memory = figures.bytes_of(record, key)
    return [NETWORKS[entry['network']].title + (f', {form}' if form else ''), f'{entry["macs"] / 1e9:.1f}',
            _quartiles(figures.spread(entry['seconds']), 4), *(_ratio(figure(record, key)) for figure in (
                figures.time_of_base, figures.rate)), f'{rate / 2e9:.1f}', f'{rate / 1e12:.3f}',
            *(_ratio(figure(record, key)) for figure in (figures.share, figures.share_of_bandwidth)),
            '' if memory is None else f'{memory / 2**20:.0f}', _ratio(figures.memory(record, key))]


def growth_table(records: Sequence[Record]) -> str:
    """Time from the smaller to the larger size, over the multiply-adds."""
    rows = []
    for settings, cell in figures.newest(records).items():
        own = dict(zip(FIELDS, settings))
        for name, network in NETWORKS.items() if own['size'] == '+'.join(GROWTH_SIZES) else ():
            values = figures.growth(cell[name], name) if name in cell else None
            if values:
                macs = [cell[name]['networks'][key]['macs'] for key in (name, f'{name}@1')]
                median = figures.spread(values)
                rows.append([network.title, f'{own["mode"]}, {own["dtype"]}, {_machine(own)}', f'{macs[1] / macs[0]:.2f}',
                             f'{median[0] * macs[1] / macs[0]:.2f}', _quartiles(median, 2),
                             'yes' if median[0] <= GROWTH_LIMIT else 'no'])
    return table(['network', 'run', 'growth of the MACs', 'of the time', 'the second over the first', f'≤ {GROWTH_LIMIT}'], rows)


def machines_table(records: Sequence[Record]) -> str:
    """What the figures were measured on, and what these machines reach."""
    def known_by(each: Record) -> Tuple[Any, ...]:
        return tuple(each[field] for field in ('machine', 'cores', 'device', 'threads', 'torch', 'dtype', 'code'))

    rows = []
    for (*known, code), same in groupby(sorted(records, key=known_by), known_by):
        own = list(same)
        dates = sorted({each['date'][:10] for each in own})
        rows.append([*known, *(_limit(own, limit, unit) for limit, unit in ((MATMUL, 1e9), (TRIAD, 1e9))), len(own), code,
                     ', '.join(sorted({each['commit'] for each in own})), ' to '.join(dict.fromkeys((dates[0], dates[-1])))])
    return table(['machine', 'cores', 'device', 'threads', 'torch', 'numbers', 'matrix peak, GFLOP/s', 'bandwidth, GB/s', 'runs',
                  'code', 'commit', 'when'], rows)


def _limit(records: Sequence[Record], limit: str, unit: float) -> str:
    rates = [each['limits'][limit]['work'] / seconds / unit for each in records if limit in each['limits']
             for seconds in each['limits'][limit]['seconds']]
    return f'{statistics.median(rates):.0f}' if rates else ''


def plots_of(records: Sequence[Record]) -> Dict[str, List[Tuple[str, Cell]]]:
    """File -> title and entries of each panel: inference and training at the size that most was measured at."""
    found: Dict[str, List[Tuple[str, Cell]]] = {}
    cells = [(dict(zip(FIELDS, settings)), cell) for settings, cell in figures.newest(records).items() if '+' not in settings[3]]
    for machine in dict.fromkeys((own['machine'], own['device'], own['threads'], own['dtype']) for own, _ in cells):
        mine = [(own, cell) for own, cell in cells
                if (own['machine'], own['device'], own['threads'], own['dtype']) == machine]
        by_size: Dict[str, int] = {}
        for own, cell in mine:
            by_size[own['size']] = by_size.get(own['size'], 0) + len(cell)
        size = max(by_size, key=lambda size: by_size[size])
        name = f'images/speed_{machine[1]}_{machine[3]}.png'
        if name not in found:  # of one machine of a kind
            panels = {own['mode']: (title(tuple(own.values())), cell) for own, cell in mine if own['size'] == size}
            found[name] = [panels[mode] for mode in MODES if mode in panels]
    return found


def _quartiles(found: Tuple[float, float, float], digits: int) -> str:
    median, lower, upper = found
    return f'{median:.{digits}f} ({lower:.{digits}f} to {upper:.{digits}f})'


def _ratio(values: Optional[List[float]]) -> str:
    return '' if values is None else f'{statistics.median(values):.2f}'
