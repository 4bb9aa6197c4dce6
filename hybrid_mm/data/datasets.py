"""Data sets inside of wrappers, and COCO annotation files read only as far as a check needs."""
import json
import mmap
import sys
from typing import Any, Iterator, List, Sequence, Tuple

from mmengine.registry import DATASETS

from hybrid_mm.errors import SetupError, shorten

_FIRST_CHUNK = 1 << 16  # bytes; COCO's own list of categories takes 6 kB


def leaf_datasets(dataset: Any, name: str) -> Iterator[Tuple[str, Any]]:
    """The data sets inside of wrappers such as RepeatDataset, ConcatDataset and MultiImageMixDataset.

    Args:
        dataset: a data set, or the config of one.
        name: its name in the config, such as ``'train_dataloader.dataset'``.

    Yields:
        Name and data set, or config, of each that is no wrapper.
    """
    if type(dataset).__name__ == '_SlicedDataset':  # mmengine's, for num_batch_per_epoch of a loader
        dataset = dataset._dataset
    if getattr(dataset, 'dataset', None) is not None:
        yield from leaf_datasets(dataset.dataset, f'{name}.dataset')
    elif getattr(dataset, 'datasets', None) is not None:
        for i, part in enumerate(dataset.datasets):
            yield from leaf_datasets(part, f'{name}.datasets.{i}')
    else:
        yield name, dataset


def dataset_class(dataset: Any, scope: str) -> Any:
    """The class of a data set's config in a library, such as mmdet; None if the registry does not know it."""
    kind = dataset.get('type')
    return DATASETS.get(kind if '.' in kind else f'{scope}.{kind}') if isinstance(kind, str) else kind


def reads_coco_files(dataset_class: type) -> bool:
    """Whether a data set class takes its annotations from a COCO file in MMDetection's own way."""
    mmdet = sys.modules.get('mmdet.datasets')  # loaded if the class is one of its own, or derived from one
    return mmdet is not None and getattr(dataset_class, 'load_data_list', None) is mmdet.CocoDataset.load_data_list


def reads_instances(dataset_class: type) -> bool:
    """Whether a data set class reads boxes, and perhaps masks, from a COCO file; panoptic ones have files of another kind."""
    return reads_coco_files(dataset_class) and getattr(dataset_class, 'ANN_ID_UNIQUE', True)


def wants_masks(pipeline: Any) -> bool:
    """Whether a pipeline's config loads masks."""
    for step in pipeline or ():
        nested = isinstance(step, (list, tuple)) and wants_masks(step)
        if nested or isinstance(step, dict) and (step.get('with_mask') or wants_masks(step.get('transforms'))):
            return True
    return False


def evaluators_of(cfg: Any, split: str) -> List[dict]:
    """The evaluators of a split that read a COCO file."""
    evaluators = cfg.get(f'{split}_evaluator') or []
    return [evaluator for evaluator in (evaluators if isinstance(evaluators, (list, tuple)) else [evaluators])
            if isinstance(evaluator, dict) and str(evaluator.get('type')).endswith('CocoMetric')]


def is_evaluated(cfg: Any, split: str, metric: str = '') -> bool:
    """Whether predictions of a split are compared with a COCO file, and by this metric, if one is given."""
    metrics = [evaluator.get('metric', 'bbox') for evaluator in evaluators_of(cfg, split) if not evaluator.get('format_only')]
    return bool(metrics) if not metric else any(metric == found or metric in list(found) for found in metrics)


def check_categories(path: str, classes: Sequence[str], with_annotations: bool = True) -> None:
    """See that a file is a COCO annotation file with these classes among its categories, in the file's order.

    MMDetection drops a class that the file lacks, and numbers classes in the file's order, without a word.

    Args:
        path: the file.
        classes: names of the classes, as in the data set's ``metainfo``.
        with_annotations: False for files that list images alone, such as COCO's test-dev.

    Raises:
        SetupError: the file is of another kind or incomplete, or the classes do not agree with it.
    """
    names = read_categories(path, with_annotations)
    missing = [name for name in classes if name not in names]
    if missing:
        raise SetupError(f'{path} has no category {shorten(missing)}; its categories are {shorten(names, 20)}, and '
                         'metainfo.classes may name these alone')
    in_file = [name for name in names if name in set(classes)]
    if in_file != list(classes):
        raise SetupError(f'metainfo.classes={tuple(classes)} is not in the order of the categories of {path}; '
                         f'write {tuple(in_file)}')


def read_categories(path: str, with_annotations: bool = True) -> List[str]:
    """Names of a COCO annotation file's categories, in its order.

    Searches the file for its keys and parses the categories alone: less than a second, where parsing the annotations of
    COCO's training set takes many.

    Args:
        path: the file.
        with_annotations: whether the file has to have annotations.

    Raises:
        SetupError: the file is no COCO annotation file, or incomplete.
    """
    needed = ['images', 'annotations', 'categories'] if with_annotations else ['images', 'categories']
    not_coco = f'{path} is not a COCO annotation file'
    with open(path, 'rb') as file:
        if not file.read(64).lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'{'):
            raise SetupError(f'{not_coco}: it is no JSON object; it needs the keys {", ".join(needed)}')
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            missing = [key for key in needed if data.find(f'"{key}"'.encode()) < 0]
            if missing:
                raise SetupError(f'{not_coco}: it lacks {", ".join(missing)}; it needs the keys {", ".join(needed)}')
            if not data[-64:].rstrip().endswith(b'}'):
                raise SetupError(f'{path} is incomplete: the closing brace of its JSON object is missing')
            start = data.find(b':', data.find(b'"categories"')) + 1
            categories = _parse_value(data, start)
    if not isinstance(categories, list) or not all(isinstance(c, dict) and 'name' in c for c in categories):
        raise SetupError(f'{not_coco}: its categories are no list of objects with id and name')
    return [category['name'] for category in categories]


def _parse_value(data: mmap.mmap, start: int) -> Any:
    """The JSON value at an offset, or None if there is none."""
    size = _FIRST_CHUNK
    while True:
        text = data[start:start + size].decode(errors='ignore')  # the cut may go through a character
        try:
            return json.JSONDecoder().raw_decode(text.lstrip())[0]
        except json.JSONDecodeError:
            if start + size >= len(data):
                return None
            size *= 8
