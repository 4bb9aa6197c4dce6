"""The tables and plots of docs/real_pictures.md, from the results."""
import statistics
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from benchmarks.shared.pages import NO_RUNS, fill, table
from benchmarks.shared.results import Record

from . import noise
from .catalogue import ALL_TASKS, NETWORKS, PAIRS, TASKS, Task
from .plots import plot_task

PAGE = 'docs/real_pictures.md'
_HOW = {'none': 'random weights', 'shapes': 'drawn shapes', 'imagenet': 'ImageNet'}


class Group(list):
    """Records of one task, recipe and number of steps."""

    def __init__(self, records: Sequence[Record]) -> None:
        super().__init__(records)
        first = self[0]
        self.key = first['task']
        self.task: Task = ALL_TASKS[first['task']]
        self.recipe, self.steps = first['recipe'], first['steps']
        self.metric = next(iter(self.task.metrics.values()))

    @property
    def title(self) -> str:
        return f'{self.task.title}, {self.recipe} recipe, {self.steps} steps'

    def of(self, *groups: str, pretraining: str = 'none') -> List[Record]:
        return [record for record in self if record['group'] in groups and record['pretraining'] == pretraining]

    def scores(self, network: str, pretraining: str = 'none') -> Dict[int, float]:
        """Seed -> the metric."""
        found = [record for record in self if record['pretraining'] == pretraining and record['network'] == network]
        return noise.by_network(found, self.metric).get(network, {})

    def deviation(self, *sides: Dict[int, float]) -> Optional[float]:
        """Of a comparison: the noise within its sides where each has two seeds, or else within all networks of the task."""
        if sides and all(len(side) > 1 for side in sides):
            return noise.pooled(side.values() for side in sides)
        return noise.pooled([record['metrics'][self.metric] for record in same] for same in self.by_network())

    def by_network(self, records: Optional[Sequence[Record]] = None) -> Iterator[List[Record]]:
        """Records that differ in seed alone."""
        def known_by(record: Record) -> Tuple[str, str]:
            return record['network'], record['pretraining']

        for _, same in groupby(sorted(self if records is None else records, key=known_by), known_by):
            yield sorted(same, key=lambda record: record['seed'])


def groups_of(records: Sequence[Record], tasks: Sequence[str] = tuple(TASKS)) -> List[Group]:
    def known_by(record: Record) -> Tuple[int, bool, int]:
        return tasks.index(record['task']), record['recipe'] == 'full', record['steps']

    chosen = sorted((record for record in records if record['task'] in tasks), key=known_by)
    return [Group(list(same)) for _, same in groupby(chosen, known_by)]


def write_page(root: Path, records: Sequence[Record]) -> List[str]:
    """Write tables and plots; returns the names of the files."""
    page, written = root / PAGE, [PAGE]
    page.write_text(render(page.read_text(), records))
    for group in groups_of(records):
        if group.of('ours', 'stock'):
            name = picture_of(group)
            plot_task(root / 'docs' / name, group)
            written.append(f'docs/{name}')
    return written


def picture_of(group: Group) -> str:
    return f'images/real_{group.key}_{group.recipe}_{group.steps}.png'


def render(text: str, records: Sequence[Record]) -> str:
    """The page with the tables that the records give."""
    groups = groups_of(records)
    parts = dict(
        noise=noise_table(groups), results='\n\n'.join(part for group in groups for part in _result_parts(group)) or NO_RUNS,
        pairs=pairs_table(groups), experiments=experiments_table(groups, records), machines=machines_table(records))
    return fill(text, PAGE, 'real', parts)


def noise_table(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        several = [[record['metrics'][group.metric] for record in same] for same in group.by_network() if len(same) > 1]
        deviation, digits = group.deviation(), group.task.digits + 1
        if deviation is not None:
            spreads = [statistics.stdev(values) for values in several]
            rows.append([group.title, next(iter(group.task.metrics)), len(several), sum(map(len, several)),
                         f'{deviation:.{digits}f}', f'{min(spreads):.{digits}f} to {max(spreads):.{digits}f}',
                         f'{2 * deviation:.{digits}f}'])
    head = ['what', 'metric', 'networks with several seeds', 'their runs', 'standard deviation, pooled', 'of each network',
            'a difference counts from']
    return table(head, rows)


def _result_parts(group: Group) -> List[str]:
    """Heading, table, IoU of each class and plot of one task and recipe."""
    main = group.of('ours', 'stock')
    if not main:
        return []
    parts = [f'### {group.title}', result_table(group, main)]
    classes = [name for name in main[0]['metrics'] if name.startswith('IoU/') or name.endswith('_precision')]
    if len(classes) > 1:
        parts.append(class_table(group, main, classes))
    parts.append(f'![{next(iter(group.task.metrics))} of the networks over multiply-adds and over seconds of training]'
                 f'({picture_of(group)})')
    return parts


def result_table(group: Group, main: Sequence[Record]) -> str:
    """A row for each network, the best first."""
    task, deviation = group.task, group.deviation()
    rows = sorted(group.by_network(main), key=lambda same: -_mean(same, group.metric))
    best = _mean(rows[0], group.metric)
    stock = max((_mean(same, group.metric) for same in rows if same[0]['group'] == 'stock'), default=None)
    metrics = list(task.metrics.items())
    head = ['network', 'backbone', *(f'{name}, {task.part}' for name, _ in metrics), *(['val'] if task.validates else []),
            'seeds', 'beside the best stock network', 'parameters, M: backbone / all', 'MACs, G: backbone / all',
            'training, minutes', 'seconds a step', 'memory, MiB', 'pictures seen']
    lines = []
    for same in rows:
        record, mean = same[0], _mean(same, group.metric)
        values = [_spread(same, name, task.digits) for _, name in metrics]
        if deviation is not None and not noise.counts(best - mean, deviation):
            values[0] = f'**{values[0]}**'
        beside = '' if record['group'] == 'stock' or stock is None else noise.verdict(mean - stock, deviation, task.digits)
        val = [_mean([{'metrics': each['val']} for each in same if each.get('val')] or [{}], group.metric)]
        lines.append([
            NETWORKS[record['network']].title, 'ours' if record['group'] == 'ours' else 'stock', *values,
            *(['' if val[0] is None else f'{val[0]:.{task.digits}f}'] if task.validates else []), len(same), beside,
            f'{record["backbone_parameters"] / 1e6:.2f} / {record["parameters"] / 1e6:.2f}',
            f'{record["backbone_macs"] / 1e9:.2f} / {record["macs"] / 1e9:.2f}',
            f'{statistics.mean(each["training_seconds"] for each in same) / 60:.1f}',
            f'{statistics.mean(each["seconds_a_step"] for each in same):.3f}',
            max(each['memory_mib'] for each in same), f'{record["samples"]:,}'])
    return table(head, lines)


def class_table(group: Group, main: Sequence[Record], classes: Sequence[str]) -> str:
    """The value of each class, the mean over the seeds; a 0 says that a class is never found."""
    digits = group.task.digits
    rows = [[NETWORKS[same[0]['network']].title, *(f'{_mean(same, name):.{digits}f}' for name in classes)]
            for same in sorted(group.by_network(main), key=lambda same: -_mean(same, group.metric))]
    head = [name[4:] if name.startswith('IoU/') else name.replace('coco/', '').replace('_precision', '') for name in classes]
    return table([f'{"IoU" if classes[0].startswith("IoU") else "box AP"} of each class', *head], rows)


def pairs_table(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        for pair in PAIRS:
            ours, others = noise.shared(group.scores(pair.ours), group.scores(pair.baseline))
            if not ours:
                continue
            macs = [next(each['backbone_macs'] for each in group if each['network'] == name)
                    for name in (pair.ours, pair.baseline)]
            rows.append([group.title, NETWORKS[pair.ours].title, NETWORKS[pair.baseline].title, pair.claim,
                         f'{macs[0] / 1e9:.2f} / {macs[1] / 1e9:.2f} ({macs[1] / macs[0] - 1:+.0%})', len(ours),
                         *_comparison(group, ours, others)])
    head = ['task', 'ours', 'baseline', 'what is compared', 'MACs of the backbones, G', 'seeds', 'ours', 'baseline', 'verdict']
    return table(head, rows)


def experiments_table(groups: Sequence[Group], records: Sequence[Record]) -> str:
    rows = []
    for group in groups:
        starts = sorted({(each['network'], each['pretraining']) for each in group if each['pretraining'] != 'none'})
        for network, start in starts:
            having, without = noise.shared(group.scores(network, start), group.scores(network))
            if not having:  # nothing to compare with yet
                having = group.scores(network, start)
            before = '' if start == 'imagenet' else _minutes_before(records, group, network, start)
            rows.append([group.title, NETWORKS[network].title, _start(start), before, len(having),
                         *(_comparison(group, having, without) if without else [_values(having, group.task.digits), '', ''])])
    head = ['task', 'network', 'starts from', 'minutes of training before', 'seeds', 'with', 'without', 'verdict']
    return table(head, rows)


def _start(pretraining: str) -> str:
    return _HOW.get(pretraining) or TASKS[pretraining].title


def _minutes_before(records: Sequence[Record], group: Group, network: str, start: str) -> str:
    task = f'shapes_{group.key}' if start == 'shapes' else start
    found = [each['training_seconds'] for each in records if (each['task'], each['network'], each['recipe'], each['seed'],
             each['pretraining']) == (task, network, group.recipe, 0, 'none')]
    return f'{found[0] / 60:.1f}' if found else ''


def machines_table(records: Sequence[Record]) -> str:
    """What the times and the memory are of."""
    def known_by(each: Record) -> Tuple[Any, ...]:
        return each['machine'], each['cores'], each.get('gpu', ''), each['threads'], each['jobs'], each['torch']

    rows = []
    for known, same in groupby(sorted(records, key=known_by), known_by):
        own = list(same)
        dates = sorted({each['date'] for each in own})
        rows.append([*known, len(own), ' to '.join(dict.fromkeys((dates[0], dates[-1])))])
    return table(['machine', 'cores', 'GPU', 'threads a process', 'processes at once', 'torch', 'runs', 'when'], rows)


def _comparison(group: Group, ours: Dict[int, float], others: Dict[int, float]) -> List[str]:
    difference = statistics.mean(ours.values()) - statistics.mean(others.values())
    digits = group.task.digits
    text = noise.verdict(difference, group.deviation(ours, others), digits)
    return [_values(ours, digits), _values(others, digits), text if text == noise.NONE else f'**{text}**' if 'noise' not in text
            else text]


def _values(side: Dict[int, float], digits: int) -> str:
    values = list(side.values())
    spread = f' ± {statistics.stdev(values):.{digits + 1}f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.{digits}f}{spread}'


def _spread(same: Sequence[Record], metric: str, digits: int) -> str:
    return _values({record['seed']: record['metrics'][metric] for record in same}, digits)


def _mean(same: Sequence[Record], metric: str) -> Any:
    values = [record['metrics'][metric] for record in same if metric in record.get('metrics', ())]
    return statistics.mean(values) if values else None
