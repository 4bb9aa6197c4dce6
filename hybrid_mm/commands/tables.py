"""The tables of models in README.md and docs/models.md, made from the metafiles in configs: python tools/tables.py [--check]

A metafile says of each config what its authors published, what is measured here, and whether the results were reproduced; no
figure of a model stands anywhere else. The tables are written between marks, such as <!-- models:glit --> and
<!-- /models:glit -->. With --check nothing is written: the exit status is 1 where a table is out of date. With --measure the
parameters and multiply-adds in the metafiles are counted anew, of all models or of those that are named.
"""
import argparse
import re
import runpy
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence, Set

import yaml

from hybrid_mm.errors import SetupError

ROOT = Path(__file__).resolve().parents[2]
NETWORK = re.compile(r'(imagenet|maskrcnn|cascade_maskrcnn|upernet)_(.+?)(_3x)?$')
TASKS = {
    'imagenet': 'ImageNet-1K', 'maskrcnn': 'COCO, Mask R-CNN 1x', 'maskrcnn_3x': 'COCO, Mask R-CNN 3x',
    'cascade_maskrcnn_3x': 'COCO, Cascade Mask R-CNN 3x', 'upernet': 'ADE20K, UperNet',
}
METRICS = {  # those in the tables, as they are published: with one digit behind the point or two
    'Top 1 Accuracy': 'top-1 {:.1f}', 'box AP': 'box AP {:.1f}', 'mask AP': 'mask AP {:.1f}', 'mIoU': 'mIoU {:.2f}',
}
REQUIRED = ('Training Data', 'Image Size', 'Parameters', 'FLOPs', 'Reproduced')
FEATURES = Path('tests/backbones/features.py')

Model = Dict[str, Any]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument('--check', action='store_true', help='write nothing; exit with 1 where a table is out of date')
    modes.add_argument('--measure', nargs='*', metavar='MODEL',
                       help='count parameters and multiply-adds anew first, of these models or of all')
    return parser


def run(args: argparse.Namespace) -> None:
    if args.measure is not None:
        measure(ROOT, args.measure)
    stale = update(ROOT, args.check)
    if stale and args.check:
        raise SetupError(f'out of date: {", ".join(stale)}; run python tools/tables.py')
    print('\n'.join(f'{name} written' for name in stale) or 'all tables are up to date')


# ---- the metafiles ----


def read_families(root: Path) -> Dict[str, List[Model]]:
    """Family -> its models, as the metafile has them, each with ``network`` and ``task``, a key of `TASKS`.

    A ValueError names file, model and rule where the index breaks a rule of mim or of ours.
    """
    families: Dict[str, List[Model]] = {}
    collections: Set[str] = set()
    names: List[str] = []
    for name in yaml.safe_load((root / 'model-index.yml').read_text())['Import']:
        metafile = yaml.safe_load((root / name).read_text())
        collections |= {collection['Name'] for collection in metafile['Collections']}
        for model in metafile['Models']:
            _check(model, name, collections, root)
            model.update(task=_task(model['Name']), network=NETWORK.sub(r'\2', model['Name']))
        families[Path(name).parent.name] = metafile['Models']
        names += [model['Name'] for model in metafile['Models']]
    twice = sorted({name for name in names if names.count(name) > 1})
    configs = [path for family in families for path in sorted((root / 'configs' / family).glob('*.py'))]
    missing = [path.relative_to(root) for path in configs if path.stem not in names]
    if twice or missing:
        raise ValueError('; '.join([*(f'{name} is in the index twice' for name in twice),
                                    *(f'{path} is in no metafile' for path in missing)]))
    return families


def _check(model: Model, file: str, collections: set, root: Path) -> None:
    """One model against the rules; the reasons are how mim reads the index."""
    name = model.get('Name', '')
    metadata = model.get('Metadata') or {}
    config = f'{Path(file).parent}/{name}.py'
    metrics = [metric for result in model.get('Results', ()) for metric in result['Metrics']]
    faults = [
        (name == name.lower(), 'its name has to be in lower case'),
        (_task(name) in TASKS, f'its name has to begin with a task, one of {", ".join(TASKS)}'),
        (model.get('Config') == config, f'its Config has to be {config}'),
        ((root / str(model.get('Config'))).is_file(), f'its Config {model.get("Config")} does not exist'),
        (model.get('In Collection') in collections, f'In Collection has to be one of {", ".join(sorted(collections))}'),
        (not set(REQUIRED) - set(metadata), f'Metadata needs {", ".join(REQUIRED)}'),
        (isinstance(metadata.get('Reproduced'), bool), 'Reproduced has to be true or false'),
        (not metrics or 'Published By' in metadata, 'results need Published By'),
        (not metrics or set(metrics) & set(METRICS), f'results need one of {", ".join(METRICS)}'),
    ]
    for fine, fault in faults:
        if not fine:
            raise ValueError(f'{file}: model {name!r}: {fault}')


def measure(root: Path, names: Sequence[str]) -> None:
    """Count models, or all, as `tools/analysis/get_flops.py` does and put the numbers into the metafiles."""
    models = {model['Name']: root / model['Config'] for members in read_families(root).values() for model in members}
    unknown = sorted(set(names) - set(models))
    if unknown:
        raise SetupError(f'--measure {" ".join(unknown)}: no such model; choose from {", ".join(models)}')

    from mmengine.config import Config
    from tqdm import tqdm

    from hybrid_mm.analysis.complexity import complexity
    for name in tqdm(names or list(models), disable=None):
        counted, metafile = complexity(Config.fromfile(models[name])), models[name].with_name('metafile.yml')
        numbers = {'Image Size': '{}x{}'.format(*counted.shape), 'Parameters': counted.total.parameters,
                   'FLOPs': counted.total.column()}
        text = metafile.read_text()
        start = text.index(f'- Name: {name}\n')
        for key, value in numbers.items():  # the first ones behind the name are the model's own
            text = text[:start] + re.sub(rf'^(    {key}: ).*$', rf'\g<1>{value}', text[start:], count=1, flags=re.MULTILINE)
        metafile.write_text(text)


# ---- the tables ----


def update(root: Path, check: bool = False) -> List[str]:
    """Write the tables that differ from what the metafiles say, or with ``check`` only return the names of their files."""
    families = read_families(root)
    tables = {'docs/models.md': {f'models:{family}': family_table(models) for family, models in families.items()},
              'README.md': {'models': overview(families)}}
    if (root / FEATURES).is_file():
        tables['docs/models.md']['features'] = _features(root)
    stale = []
    for name, parts in tables.items():
        old = text = (root / name).read_text()
        for mark, table in parts.items():
            text = put(text, mark, table, name)
        if text != old:
            stale.append(name)
            if not check:
                (root / name).write_text(text)
    return stale


def put(text: str, mark: str, table: str, name: str) -> str:
    """A text with the table between its marks."""
    begin, end = f'<!-- {mark} -->', f'<!-- /{mark} -->'
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f'{name} needs {begin} and below it {end}, each once')
    return f'{text[:text.index(begin)]}{begin}\n{table.strip()}\n{text[text.index(end):]}'


def family_table(models: Sequence[Model]) -> str:
    """All models of a family, for docs/models.md."""
    head = ['config', 'data and heads', 'pixels', 'parameters, M: measured', 'published', 'MACs, G: measured', 'published',
            'results, published', 'published by', 'reproduced']
    rows = []
    for model in models:
        data = model['Metadata']
        rows.append([f'[{model["Name"]}](../{model["Config"]})', TASKS[model['task']], data['Image Size'].replace('x', '×'),
                     _millions(model), data.get('Published Parameters (M)', ''),
                     _billions(model), data.get('Published FLOPs (G)', ''),
                     ', '.join(_results(model).values()),
                     data.get('Published By', ''), _reproduced([model])])
    return _table(head, rows)


def overview(families: Dict[str, List[Model]]) -> str:
    """A row for each network but for the baselines, for README.md; a published result is that of its last config that has one."""
    head = ['network', 'parameters, M', 'MACs, G', 'published top-1', 'published box / mask AP', 'published mIoU',
            'reproduced here']
    rows = []
    for family, models in families.items():
        for classifier in models:
            network = classifier['network']
            if classifier['task'] != 'imagenet' or 'baseline' in network:
                continue
            own = [model for model in models if model['network'] == network]
            number = {name: text.split()[-1] for model in own for name, text in _results(model).items()}
            rows.append([f'[{network}](configs/{family})', _millions(classifier), _billions(classifier),
                         number.get('Top 1 Accuracy', ''),
                         ' / '.join(number[name] for name in ('box AP', 'mask AP') if name in number),
                         number.get('mIoU', ''), _reproduced(own)])
    return _table(head, rows)


def _task(name: str) -> str:
    return NETWORK.sub(r'\1\3', name)


def _results(model: Model) -> Dict[str, str]:
    """The published figures that are shown, by metric."""
    return {name: METRICS[name].format(value)
            for result in model.get('Results', ()) for name, value in result['Metrics'].items() if name in METRICS}


def _reproduced(models: Sequence[Model]) -> str:
    done = sum(model['Metadata']['Reproduced'] for model in models)
    return 'yes' if done == len(models) else f'{done} of {len(models)}' if done else 'no'


def _millions(model: Model) -> str:
    return f'{model["Metadata"]["Parameters"] / 1e6:.2f}'


def _billions(model: Model) -> str:
    return f'{model["Metadata"]["FLOPs"] / 1e9:.2f}'


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return '\n'.join(f'| {" | ".join(map(str, row))} |' for row in [head, ['---'] * len(head), *rows])


def _features(root: Path) -> str:
    """What each backbone can do, as the tests say."""
    sys.path.insert(0, str(root / 'tests'))
    return runpy.run_path(str(root / FEATURES))['feature_table']()

