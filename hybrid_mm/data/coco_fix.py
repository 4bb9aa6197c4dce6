"""A cleaned copy of a COCO annotation file: what is faulty is left out, clipped or computed, and each change is told."""
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from hybrid_mm.output import whole_file

from . import faults as kinds
from .coco_faults import find_faults
from .coco_images import is_id, is_image, size_of, sizes_unlike
from .faults import ADVICE, Fault
from .rle import run_lengths

_ROUNDS = 5  # a clipped box may be too thin, and a polygon apart from it
_LEFT_OUT = {kind.name for kind in kinds.KINDS.values() if kind.remedy.startswith('left out')}


def mend(content: Mapping[str, Any], path: str, masks: bool = False, evaluated: bool = False,
         stored: Mapping[str, Tuple[Tuple[int, int], int]] = {}) -> Tuple[Dict[str, Any], List[Fault]]:  # noqa: B006
    """A copy of a file's content in which `find_faults` finds nothing but advice.

    Args:
        content, path, masks, evaluated: as of `find_faults`; ``content`` stays as it is.
        stored: sizes and orientations of the pictures by file name, as of `sizes_unlike`, of those that are known.

    Returns:
        The copy, and each change, its message telling what was done.
    """
    images, other_id, changes = _mend_images(content['images'], path, stored)
    categories, other_category, more = _mend_categories(content['categories'], path)
    changes += more
    mended = dict(content, images=images, categories=categories)
    annotations = content.get('annotations', [])
    if other_id or other_category:
        annotations = [dict(annotation, image_id=_other(other_id, annotation.get('image_id')),
                            category_id=_other(other_category, annotation.get('category_id')))
                       if isinstance(annotation, dict) and {'image_id', 'category_id'} <= set(annotation) else annotation
                       for annotation in annotations]
    for _ in range(_ROUNDS):
        mended['annotations'] = annotations
        found = [fault for fault in find_faults(mended, path, masks, evaluated)
                 if fault.severity != ADVICE or fault.kind in (kinds.ID_ZERO, kinds.NO_CROWD)]
        if not found:
            break
        annotations = _mend_annotations(annotations, found, images, masks)
        changes += [_told(fault) for fault in found]
    if 'annotations' not in content:
        del mended['annotations']
    return mended, changes


def write_coco(content: Mapping[str, Any], path: Path) -> None:
    """Write a file; a SetupError where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        # dumps is several times as fast as dump, which goes through Python's own encoder
        partial.write_text(json.dumps(content), encoding='utf-8')


def _told(fault: Fault) -> Fault:
    return replace(fault, message=f'{fault.message}; {fault.kind.remedy}')


def _other(others: Mapping[Any, Any], value: Any) -> Any:
    return others.get(value, value) if is_id(value) else value


def _mend_images(images: Sequence[Any], path: str,
                 stored: Mapping[str, Tuple[Tuple[int, int], int]]) -> Tuple[List[dict], Dict[Any, Any], List[Fault]]:
    """Images, new ids for annotations of some, and the changes."""
    images = list(images)
    changes = []
    unlike = sizes_unlike(images, path, stored)
    for row, image in enumerate(images):
        if is_image(image) and size_of(image) is None and image['file_name'] in stored:
            changes.append(Fault(kinds.IMAGE_KEYS, path, f'images[{row}] has width={image.get("width")}, height='
                                 f'{image.get("height")}; given the size of the picture', image['id']))
            images[row] = _with_size(image, stored)
    for fault in unlike:
        images[fault.row] = _with_size(images[fault.row], stored)
        changes.append(_told(fault))
    found = find_faults(dict(images=images, categories=[]), path)
    others = {}
    first = {image['file_name']: image['id'] for image in reversed(images) if is_image(image) and size_of(image)}
    for fault in found:
        if fault.kind is kinds.FILE_TWICE and images[fault.row]['file_name'] in first:
            others[fault.image_id] = first[images[fault.row]['file_name']]
    gone = {fault.row for fault in found}
    return [image for row, image in enumerate(images) if row not in gone], others, changes + [_told(fault) for fault in found]


def _with_size(image: Dict[str, Any], stored: Mapping[str, Tuple[Tuple[int, int], int]]) -> Dict[str, Any]:
    width, height = stored[image['file_name']][0]
    return dict(image, width=width, height=height)


def _mend_categories(categories: Sequence[Any], path: str) -> Tuple[List[dict], Dict[Any, Any], List[Fault]]:
    """Categories, new ids for annotations of some, and the changes."""
    found = find_faults(dict(images=[], categories=categories), path)
    gone = {fault.row for fault in found}
    kept = [category for row, category in enumerate(categories) if row not in gone]
    by_name = {category['name']: category['id'] for category in kept}
    others = {categories[fault.row]['id']: by_name[categories[fault.row]['name']]
              for fault in found if fault.kind is kinds.NAME_TWICE}
    return kept, others, [_told(fault) for fault in found]


def _mend_annotations(annotations: Sequence[Any], found: Sequence[Fault], images: Sequence[dict], masks: bool) -> List[Any]:
    """Annotations after one round of changes."""
    sizes = {image['id']: (image['width'], image['height']) for image in images}
    new: List[Any] = list(annotations)
    twins = _twins(annotations) if any(fault.kind is kinds.ID_TWICE for fault in found) else set()
    next_id = 1 + max((annotation['id'] for annotation in annotations
                       if isinstance(annotation, dict) and type(annotation.get('id')) is int), default=0)
    gone = {fault.row for fault in found if fault.kind.name in _LEFT_OUT and fault.kind is not kinds.FEW_POINTS} | twins
    for fault in found:
        if fault.row in gone:
            continue
        annotation = new[fault.row] = dict(new[fault.row])
        if fault.kind in (kinds.NO_ID, kinds.ID_TWICE, kinds.ID_ZERO):
            annotation['id'] = next_id
            next_id += 1
        elif fault.kind is kinds.NO_CROWD:
            annotation['iscrowd'] = 0
        elif fault.kind is kinds.BEYOND:
            annotation['bbox'] = _clipped_box(annotation['bbox'], sizes[annotation['image_id']])
            if not masks and _is_number(annotation.get('area')):
                annotation['area'] = _area(annotation, masks)
        elif fault.kind in (kinds.FEW_POINTS, kinds.POLYGON_BEYOND):
            polygons = [polygon for polygon in annotation['segmentation'] if len(polygon) >= 6]
            if fault.kind is kinds.POLYGON_BEYOND:
                polygons = [_clipped_polygon(polygon, sizes[annotation['image_id']]) for polygon in polygons]
            annotation['segmentation'] = [polygon for polygon in polygons if len(polygon) >= 6]
            if not annotation['segmentation']:
                gone.add(fault.row)
            elif _is_number(annotation.get('area')):
                annotation['area'] = _area(annotation, masks)
        elif fault.kind in (kinds.NO_AREA, kinds.ZERO_AREA):
            annotation['area'] = _area(annotation, masks)
    return [annotation for row, annotation in enumerate(new) if row not in gone]


def _twins(annotations: Sequence[Any]) -> set:
    """Rows of annotations that are there before, word for word."""
    seen: set = set()
    twins = set()
    for row, annotation in enumerate(annotations):
        text = json.dumps(annotation, sort_keys=True)
        if text in seen:
            twins.add(row)
        seen.add(text)
    return twins


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _area(annotation: Mapping[str, Any], masks: bool) -> float:
    """Area of the mask, of the box without masks, or where the mask has none, as the box is then what is known."""
    mask = annotation.get('segmentation') if masks else None
    area = 0.
    try:
        if isinstance(mask, dict):
            area = max(0, int(run_lengths([mask['counts']])[1][0]))
        elif mask:
            area = sum(_polygon_area(polygon) for polygon in mask)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        pass  # a mask that is faulty itself, and goes for that in the next round
    box = annotation.get('bbox')
    if area <= 0 and isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        area = float(box[2]) * float(box[3])
    return area if area > 0 and np.isfinite(area) else 1.  # of a box so faulty that it is left out


def _polygon_area(polygon: Sequence[float]) -> float:
    x, y = np.array(polygon, float).reshape(-1, 2).T
    return float(abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2)


def _clipped_box(box: Sequence[float], size: Tuple[int, int]) -> List[float]:
    x, y = max(0, box[0]), max(0, box[1])
    right, bottom = min(size[0], box[0] + box[2]), min(size[1], box[1] + box[3])
    return [x, y, right - x, bottom - y]


def _clipped_polygon(polygon: Sequence[float], size: Tuple[int, int]) -> List[float]:
    """The part of a polygon inside of the picture, edge of the picture after edge (Sutherland and Hodgman, CACM 17, 1974)."""
    corners = [(float(x), float(y)) for x, y in zip(polygon[::2], polygon[1::2])]
    for axis, edge, sign in ((0, 0., 1), (0, float(size[0]), -1), (1, 0., 1), (1, float(size[1]), -1)):
        kept = []
        for before, corner in zip([*corners[-1:], *corners[:-1]], corners):
            is_inside = sign * corner[axis] >= sign * edge
            if is_inside != (sign * before[axis] >= sign * edge):
                share = (edge - before[axis]) / (corner[axis] - before[axis])
                crossing = [before[i] + share * (corner[i] - before[i]) for i in (0, 1)]
                crossing[axis] = edge
                kept.append((crossing[0], crossing[1]))
            if is_inside:
                kept.append(corner)
        corners = kept
    return [value for corner in corners for value in corner]
