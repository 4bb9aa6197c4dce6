"""``--data-root``: another folder in the place of the one in which a config has its data."""
import os
from typing import Any, List, Sequence, Tuple

from mmengine.config import Config

from hybrid_mm import processes
from hybrid_mm.data.datasets import leaf_datasets
from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.names import walk

_SPLITS = ('train', 'val', 'test')
_NOT_DATA = (('model', ), ('load_from', ), ('work_dir', ))  # weights and results may lie beside the data


def replace_data_root(cfg: Config, folder: str) -> None:
    """Put a folder in the place of the ``data_root`` of a config, wherever a text of the config begins with it.

    These are the data sets, also those inside of wrappers and lists, ``ann_file`` of the evaluators, and what else a pipeline
    reads; ``model``, ``load_from`` and ``work_dir`` stay. The ``data_root`` is the variable of that name if something of the data
    begins with it, otherwise the one that all data sets have. What the data sets and evaluators read elsewhere is told.

    `mmdet.utils.update_data_root` has the same purpose, with the variable MMDET_DATASETS, but is of no use here: it reads
    ``cfg.data``, which configs had before mmengine, passes over lists, and replaces the text in the middle of others, too.

    Raises:
        SetupError: there is no such folder, or the config has no one ``data_root``.
    """
    if '://' not in folder and not os.path.isdir(os.path.expanduser(folder)):
        raise SetupError(f'--data-root {folder} is no folder; give the one that holds the data')
    paths = _paths(cfg)
    root = str(cfg.get('data_root') or '').rstrip('/')
    if not any(_is_below(path, root) for _, path in paths):
        roots = sorted({path.rstrip('/') for name, path in paths if name.endswith('.data_root')})
        if len(roots) != 1:
            raise SetupError(f'--data-root {folder} has nothing to replace: the config has no data_root that its data share; ' + (
                f'its data sets have {shorten(roots)}, of which --cfg-options changes each' if roots else
                'give the paths of its data sets with --cfg-options'))
        root = roots[0]
    others = [f'{name}={path}' for name, path in paths if not _is_below(path, root)]
    if others and processes.rank() == 0:
        print(f'--data-root {folder} takes the place of {root}; what lies elsewhere stays: {shorten(others)}', flush=True)
    end = folder.rstrip('/') or folder
    for place, value in walk(cfg.to_dict()):
        if place[:1] not in _NOT_DATA:
            new = _moved(value, root, end)
            if new != value:
                _put(cfg, place, new)


def _paths(cfg: Config) -> List[Tuple[str, str]]:
    """Name and value of each path that data sets and evaluators read their data from, those below another path left out."""
    found = []
    for split in _SPLITS:
        dataset, evaluators = (cfg.get(f'{split}_dataloader') or {}).get('dataset') or {}, cfg.get(f'{split}_evaluator') or []
        for name, leaf in leaf_datasets(dataset, f'{split}_dataloader.dataset'):
            key = 'data_root' if leaf.get('data_root') else 'ann_file'
            found.append((f'{name}.{key}', leaf.get(key)))
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            found.append((f'{split}_evaluator.ann_file', evaluator.get('ann_file')))
    return [(name, path) for name, path in found if path and isinstance(path, str)]


def _is_below(path: str, root: str) -> bool:
    """Whether a path is ``root``, or lies in it; ``data/coco`` does not hold ``data/coco2017``."""
    return root != '' and (path == root or path.startswith(f'{root}/'))


def _moved(value: Any, start: str, end: str) -> Any:
    """A text that begins with a path, with another path in its place, or a tuple of such texts; all else as it is."""
    if isinstance(value, tuple):
        return tuple(_moved(part, start, end) if isinstance(part, str) else part for part in value)
    return end + value[len(start):] if isinstance(value, str) and _is_below(value, start) else value


def _put(cfg: Config, place: Sequence[str], value: Any) -> None:
    """Set a value of a config, given by the keys and indices that lead to it, but for the parts of a tuple."""
    node: Any = cfg
    *above, last = [*place]
    for key in above:
        node = node[int(key) if isinstance(node, (list, tuple)) else key]
    if not isinstance(node, tuple):
        node[int(last) if isinstance(node, list) else last] = value
