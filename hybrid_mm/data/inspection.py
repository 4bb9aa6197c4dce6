"""Looks through the data sets of a config: annotation files, pictures, label maps and lists."""
import copy
import inspect as python_inspect
import os
from typing import List, NamedTuple, Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from hybrid_mm.errors import SetupError, first_line

from . import advice
from . import faults as kinds
from .coco_faults import find_faults, read_coco
from .coco_images import has_name, sizes_unlike
from .datasets import dataset_class, is_evaluated, leaf_datasets, reads_instances, wants_masks
from .faults import Fault
from .parts import Entry, Part
from .pictures import LabelMap, read_pictures


class Report(NamedTuple):
    """What was looked at, and what was found; ``notes`` say what was not looked at."""
    parts: List[Part]
    faults: List[Fault]
    notes: List[str]


def inspect(cfg: Config, splits: Sequence[str], pictures: bool = True, workers: int = 0) -> Report:
    """Look through data sets.

    Args:
        cfg: a config.
        splits: of train, val and test, those to look at.
        pictures: whether pictures and label maps are read.
        workers: processes that read pictures.

    Raises:
        SetupError: an annotation file is none.
    """
    parts: List[Part] = []
    notes: List[str] = []
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        for name, leaf in leaf_datasets(loader.dataset, f'{split}_dataloader.dataset'):
            masks = wants_masks(leaf.get('pipeline')) or is_evaluated(cfg, split, 'segm')
            evaluated = is_evaluated(cfg, split)
            same = [part for part in parts if _source(part.config) == _source(leaf)]
            if same:
                same[0].splits += [split] if split not in same[0].splits else []
                same[0].masks |= masks
                same[0].evaluated |= evaluated
                continue
            part = Part([split], name, leaf, masks=masks, evaluated=evaluated)
            note = _read(part, cfg)
            if note:
                notes.append(f'{name} was not looked at: {note}')
            else:
                parts.append(part)
    for part in parts:
        if part.coco is not None:
            part.faults += find_faults(part.coco, part.file, part.masks, part.evaluated)
        if pictures and part.entries:
            maps = [entry.label_map for entry in part.entries]
            part.facts = read_pictures([entry.path for entry in part.entries], maps, workers)
            part.faults += _picture_faults(part)
        part.faults += advice.of_part(part, cfg)
    return Report(parts, [fault for part in parts for fault in part.faults] + advice.across(parts), notes)


def _source(config: dict) -> dict:
    """What of a data set's config says which files it reads."""
    return {key: value for key, value in config.items() if key not in ('pipeline', 'test_mode', 'filter_cfg', 'lazy_init')}


def _read(part: Part, cfg: Config) -> str:
    """Fill in entries and file of a data set; why not, if not."""
    config, scope = part.config, cfg.default_scope
    kind = dataset_class(config, scope)
    if kind is None:
        return f'the type {config.get("type")} is not in the registry'
    if config.get('backend_args'):
        return 'its files do not lie on a disk of this machine (backend_args)'
    if reads_instances(kind):
        root = config.get('data_root') or ''
        part.file = os.path.join(root, config.get('ann_file') or '')
        part.coco = read_coco(part.file, with_annotations=not config.get('test_mode'))
        folder = os.path.join(root, (config.get('data_prefix') or {}).get('img') or '')
        part.classes = (config.get('metainfo') or {}).get('classes') or kind.METAINFO['classes']
        part.entries = [Entry(os.path.join(folder, image['file_name']), image.get('id'))
                        for image in part.coco['images'] if has_name(image)]
        return ''
    if 'download' in python_inspect.signature(kind).parameters:
        return f'{kind.__name__} fetches and holds its pictures itself'
    _read_built(part, cfg, scope)
    return ''


def _read_built(part: Part, cfg: Config, scope: str) -> None:
    """Let the data set itself find its files."""
    config = copy.deepcopy(part.config)
    config.update(pipeline=[], lazy_init=True)
    part.file = part.name
    try:
        with DefaultScope.overwrite_default_scope(scope):
            dataset = DATASETS.build(config)
            ann_file = getattr(dataset, 'ann_file', '')
            if ann_file and os.path.isfile(ann_file):
                part.file = ann_file
                if hasattr(dataset, 'with_label') and dataset.with_label:
                    part.faults += _list_faults(ann_file)
            if part.faults:
                return
            dataset.full_init()
        entries = [dataset.get_data_info(i) for i in range(len(dataset))]
    except SetupError:
        raise
    except Exception as error:  # anything, as data sets of all kinds come here
        part.faults.append(Fault(kinds.NOT_BUILT, part.file, f'{config["type"]}: {first_line(error)}'))
        return
    if not entries:
        part.faults.append(Fault(kinds.EMPTY, part.file, f'{config["type"]} finds no pictures; check data_root, data_prefix, '
                                 'ann_file and the endings img_suffix and seg_map_suffix, or extensions'))
    metainfo = getattr(dataset, 'metainfo', None) or {}
    part.classes = metainfo.get('classes') or ()
    num_classes = advice.num_classes_of(cfg) or len(part.classes)
    backend = advice.map_backend(part.config.get('pipeline'))
    for entry in entries:
        label_map = None
        if entry.get('seg_map_path') and num_classes:
            label_map = LabelMap(entry['seg_map_path'], num_classes, bool(entry.get('reduce_zero_label')),
                                 getattr(dataset, 'ignore_index', 255), entry.get('label_map'), backend)
        if isinstance(entry.get('img_path'), str):
            part.entries.append(Entry(entry['img_path'], entry.get('img_id'), label_map, entry.get('gt_label')))
    for entry in part.entries:
        labels = entry.label if isinstance(entry.label, (list, tuple)) else [entry.label]
        wrong = [label for label in labels if label is not None and num_classes and not 0 <= label < num_classes]
        if wrong:
            part.faults.append(Fault(kinds.LABEL, part.file, f'{entry.path} has class {wrong[0]}; allowed with {num_classes} '
                                     f'classes are 0 to {num_classes - 1}'))


def _list_faults(path: str) -> List[Fault]:
    """Lines of MMPretrain's lists that are not a file and a class."""
    found = []
    with open(path, encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file, 1):
            words = line.strip().rsplit(' ', 1)
            if len(words) < 2 or not words[1].isdigit():
                found.append(Fault(kinds.LABEL, path, f'line {number} is {line.strip()!r}; it needs the name of a file, a blank, '
                                   'and the number of a class'))
    return found


def _picture_faults(part: Part) -> List[Fault]:
    found = []
    for entry, facts in zip(part.entries, part.facts):
        if facts.fault:
            found.append(Fault(kinds.UNREADABLE, entry.path, facts.fault, entry.image_id))
        if entry.label_map and facts.map_unread:
            found.append(Fault(kinds.NO_MAP, entry.label_map.path, facts.map_unread, entry.image_id))
        elif entry.label_map and facts.map_fault:
            found.append(Fault(kinds.MAP_UNFIT, entry.label_map.path, facts.map_fault, entry.image_id))
    if part.coco is not None:
        found += sizes_unlike(part.coco['images'], part.file, part.stored)
    return found
