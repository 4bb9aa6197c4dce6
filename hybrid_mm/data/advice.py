"""What is no error in data, but costs accuracy."""
import os
from collections import Counter
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config

from hybrid_mm.errors import shorten

from . import faults as kinds
from .coco_images import has_name
from .faults import Fault
from .parts import Part

_STRIDE = 4  # of the first map of a feature pyramid, where the config does not say


def of_part(part: Part, cfg: Config) -> List[Fault]:
    """Advice on one data set."""
    found = _turned(part)
    if part.coco is not None:
        found += _tiny_boxes(part, cfg)
    pixels: Counter = Counter()
    for facts in part.facts:
        pixels.update(facts.pixels)
    if pixels:
        found += _on_label_maps(part, cfg, pixels)
    return found + _without_example(part, pixels)


def across(parts: Sequence[Part]) -> List[Fault]:
    """Advice on pictures that are there more than once."""
    found = []
    first: Dict[bytes, Tuple[str, Part]] = {}
    names: Dict[str, Tuple[str, Part]] = {}
    for part in parts:
        for i, entry in enumerate(part.entries):
            digest = part.facts[i].digest if part.facts else b''
            before = first.get(digest) if digest else None
            path = os.path.abspath(entry.path)
            name = os.path.basename(path)
            same_name = names.get(name)
            kind, text = None, ''
            if before and _are_apart(before[1], part):
                kind, text = kinds.SHARED, f'is the same picture as {before[0]} of {before[1].name}'
            elif before and os.path.abspath(before[0]) != path:
                kind, text = kinds.COPY, f'is the same picture as {before[0]}'
            elif same_name and _are_apart(same_name[1], part):
                is_file = os.path.abspath(same_name[0]) == path
                kind = kinds.SHARED if is_file else kinds.SHARED_NAME
                text = f'{"is" if is_file else "has the name of"} {same_name[0]} of {same_name[1].name}'
            if kind:
                found.append(Fault(kind, entry.path, text, entry.image_id))
            if digest:
                first.setdefault(digest, (entry.path, part))
            names.setdefault(name, (entry.path, part))
    return found


def _are_apart(one: Part, other: Part) -> bool:
    """Whether one serves training, and the other testing."""
    return ('train' in one.splits) != ('train' in other.splits)


def num_classes_of(cfg: Config) -> int:
    """Classes that the head predicts; 0 if the config has no head that says."""
    for name in ('decode_head', 'head'):
        head = cfg.model.get(name) or {}
        head = head[-1] if isinstance(head, (list, tuple)) else head
        if isinstance(head.get('num_classes'), int):
            return head['num_classes']
    return 0


def map_backend(pipeline: Any) -> str:
    """Of mmcv, with which label maps are read."""
    for step in pipeline or ():
        if isinstance(step, dict) and str(step.get('type')).endswith('LoadAnnotations'):
            return step.get('imdecode_backend', 'pillow')
    return 'pillow'


def _turned(part: Part) -> List[Fault]:
    """Pictures that OpenCV turns; of no matter where there are neither boxes nor label maps."""
    images: List[Any] = [None] * len(part.entries)
    if part.coco is not None:
        images = [image for image in part.coco['images'] if has_name(image)]
    found = []
    for entry, facts, image in zip(part.entries, part.facts, images):
        if facts.orientation == 1 or not facts.size or part.coco is None and entry.label_map is None:
            continue
        text = f'has orientation {facts.orientation}'
        size = (image.get('width'), image.get('height')) if image else facts.map_size
        if size is None or facts.orientation < 5 or facts.size[0] == facts.size[1]:
            text += ('; OpenCV turns it, and whether its annotations are for the turned picture cannot be told; save it again '
                     'without an orientation')
        elif size == facts.size:
            text += '; its annotations are for the picture as it is stored, by their width and height'
        else:
            text += '; its annotations are for the turned picture, by their width and height'
        found.append(Fault(kinds.TURNED, entry.path, text, entry.image_id))
    return found


def _tiny_boxes(part: Part, cfg: Config) -> List[Fault]:
    """Boxes that the first map of the network sees as less than a cell."""
    assert part.coco is not None
    stride, scales = _stride(cfg), list(_scales(part.config.get('pipeline')))
    if None in scales:
        return []
    scale = max(scales, key=np.prod, default=None)
    factors = {}
    for image in part.coco['images']:
        try:
            long, short = sorted((image['width'], image['height']), reverse=True)
            factors[image['id']] = min(max(scale) / long, min(scale) / short) if scale else 1.
        except (TypeError, KeyError, ZeroDivisionError):
            pass
    tiny, total = [], 0
    for annotation in part.coco.get('annotations', []):
        try:
            factor, (_, _, width, height) = factors[annotation['image_id']], annotation['bbox']
            total += 1
            if 1 <= min(width, height) and max(width, height) * factor < stride:
                tiny.append(annotation)
        except (TypeError, KeyError, ValueError):
            pass
    if not tiny:
        return []
    resized = f'after the resize to {scale}' if scale else 'without a resize'
    return [Fault(kinds.TINY, part.file, f'{len(tiny)} of {total} boxes ({len(tiny) / total:.2%}) are smaller than the stride of '
                  f'the first map, {stride} pixels, {resized}; if they matter, give the pipeline a larger scale',
                  tiny[0].get('image_id'), tiny[0].get('id'))]


def _stride(cfg: Config) -> int:
    for path in ('rpn_head.anchor_generator', 'bbox_head.anchor_generator', 'bbox_head.prior_generator', 'bbox_head'):
        node: Any = cfg.model
        for key in path.split('.'):
            node = (node.get(key) if isinstance(node, dict) else None) or {}
        strides = node.get('strides') if isinstance(node, dict) else None
        if strides:
            first = strides[0]
            return first if isinstance(first, int) else first[0]
    return _STRIDE


def _scales(pipeline: Any) -> Iterator[Optional[Tuple[int, int]]]:
    """The largest scale of each resize of a pipeline, also of nested ones; None for one of which it cannot be told."""
    for step in pipeline or ():
        if isinstance(step, (list, tuple)):
            yield from _scales(step)
        elif isinstance(step, dict):
            name = str(step.get('type')).rpartition('.')[2]
            if name in ('Resize', 'RandomResize', 'RandomChoiceResize'):
                yield _largest_scale(step)
            elif 'Resize' in name:
                yield None
            yield from _scales(step.get('transforms'))


def _largest_scale(resize: Mapping[str, Any]) -> Optional[Tuple[int, int]]:
    """Most width and height of a resize that keeps the ratio."""
    given = resize.get('scales', resize.get('scale'))
    is_list = isinstance(given, (list, tuple)) and given and (
        isinstance(given[0], (list, tuple)) or 'scales' in resize and isinstance(given, list))  # a tuple is one scale
    scales = [(scale, scale) if isinstance(scale, int) else scale for scale in (given if is_list else [given])]
    are_sides = all(isinstance(scale, (list, tuple)) and len(scale) == 2 and all(type(side) is int and side > 0 for side in scale)
                    for scale in scales)
    if not resize.get('keep_ratio') or not are_sides:
        return None
    ratio = max(resize.get('ratio_range') or [1])
    width, height = max(scales, key=np.prod)
    return int(width * ratio), int(height * ratio)


def _without_example(part: Part, pixels: Counter) -> List[Fault]:
    """Classes that the data set does not show."""
    shown: set = set()
    if part.coco is not None and 'annotations' in part.coco:
        names = {category['id']: category.get('name') for category in part.coco['categories']
                 if isinstance(category, dict) and isinstance(category.get('id'), (int, str))}
        shown = {names.get(annotation['category_id']) for annotation in part.coco['annotations']
                 if isinstance(annotation, dict) and isinstance(annotation.get('category_id'), (int, str)) and
                 not annotation.get('iscrowd')}
    elif pixels:
        shown = {part.classes[label] for label in _labels(part, pixels) if label < len(part.classes)}
    else:
        for entry in part.entries:
            labels = entry.label if isinstance(entry.label, (list, tuple)) else [entry.label]
            shown |= {part.classes[label] for label in labels if isinstance(label, int) and 0 <= label < len(part.classes)}
    missing = [name for name in part.classes if name not in shown]
    if not missing or not shown:
        return []
    return [Fault(kinds.NO_EXAMPLE, part.file, f'{len(missing)} of {len(part.classes)} classes have no example in '
                  f'{" and ".join(part.splits)}: {shorten(missing, 10)}')]


def _labels(part: Part, pixels: Counter) -> List[int]:
    """Classes that the data set makes of the values in its label maps."""
    label_map = next(entry.label_map for entry in part.entries if entry.label_map)
    labels = set()
    for value in pixels:
        label = value
        if value == label_map.ignore_index or label_map.reduce_zero_label and value == 0:
            continue
        label -= label_map.reduce_zero_label
        label = (label_map.others or {}).get(label, label)
        labels.add(label)
    return sorted(labels - {label_map.ignore_index})


def _on_label_maps(part: Part, cfg: Config, pixels: Counter) -> List[Fault]:
    """Settings that do not fit the values in label maps, and the line to change."""
    label_map = next(entry.label_map for entry in part.entries if entry.label_map)
    count, ignored = label_map.num_classes, label_map.ignore_index
    values = sorted(value for value in pixels if value != ignored)
    found = []

    def add(kind: kinds.Kind, text: str) -> None:
        found.append(Fault(kind, part.name, text))

    held = f'the label maps hold {shorten(values, 12)}' + (f', and {ignored} for none' if ignored in pixels else '')
    setting = f'{part.name}.reduce_zero_label'
    if not values:
        add(kinds.IGNORED, f'{held}: no pixel has a class')
    elif label_map.others:
        pass  # what the file calls its classes is not what the config does
    elif label_map.reduce_zero_label and 0 in values and values[-1] == count - 1:
        add(kinds.ZERO_LABEL, f'{held}; with {setting}=True, 0 is ignored and the last class, {count}, has no pixel: if 0 is a '
            f'class, write {setting}=False')
    elif not label_map.reduce_zero_label and 0 not in values and values[-1] == count:
        add(kinds.ZERO_LABEL, f'{held}; with {setting}=False, {count} is above the last class, {count - 1}, and 0 has no pixel: '
            f'write {setting}=True')
    elif values[-1] > count - (not label_map.reduce_zero_label):
        first = int(label_map.reduce_zero_label)
        needed = values[-1] + 1 - first
        cure = f'save the values above as {ignored}, for none'
        if needed < 2 * count + 10:  # more is no number of a class
            cure = (f'write num_classes={needed} into the heads of the model and {needed} names into '
                    f'{part.name}.metainfo.classes, or {cure}')
        add(kinds.NUM_CLASSES, f'{held}; {count} classes are {first} to {count - 1 + first}: {cure}')
    elif not label_map.reduce_zero_label and values == [0] and ignored in pixels and count > 1:
        add(kinds.IGNORED, f'{held}: {ignored} is no class in training; if it marks objects, save them as 1')
    heads = [(name, cfg.model.get(name)) for name in ('decode_head', 'auxiliary_head')]
    for name, head in heads:
        for i, one in enumerate(head if isinstance(head, (list, tuple)) else [head]):
            other = (one or {}).get('ignore_index', 255)
            if one and other != ignored and ignored in pixels:
                place = f'{name}.{i}' if isinstance(head, (list, tuple)) else name
                add(kinds.IGNORED, f'{held}, but model.{place}.ignore_index={other}: write model.{place}.ignore_index={ignored}')
    return found
