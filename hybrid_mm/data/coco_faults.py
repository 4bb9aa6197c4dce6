"""What is wrong with a COCO annotation file. Columns of all annotations are judged at once: 100,000 take some two seconds."""
import gc
import json
from contextlib import contextmanager
from itertools import chain
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

import numpy as np

from hybrid_mm.errors import SetupError, first_line

from . import faults as kinds
from .coco_images import is_id, is_image, size_of
from .faults import Fault, Kind
from .rle import run_lengths

ROUNDING = 1  # pixels a box may reach beyond its picture: programs round, or count from 1
_AT_ONCE = 100_000  # annotations whose polygons are judged at once, for memory's sake


def read_coco(path: str, with_annotations: bool = True) -> Dict[str, Any]:
    """A COCO annotation file.

    Args:
        path: the file.
        with_annotations: whether it has to have annotations; files for testing may list images alone.

    Raises:
        SetupError: it is no such file.
    """
    try:
        with open(path, encoding='utf-8') as file, _without_gc():
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise SetupError(f'{path} is not a COCO annotation file: it is no JSON, or incomplete: {first_line(error)}') from None
    except OSError as error:
        raise SetupError(f'{path} cannot be read: {error.strerror}') from error
    needed = ['images', *(['annotations'] if with_annotations else []), 'categories']
    lacking = [key for key in needed if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking or not isinstance(content.get('annotations', []), list):
        raise SetupError(f'{path} is not a COCO annotation file: it needs an object with the lists {", ".join(needed)}')
    return content


@contextmanager
def _without_gc() -> Iterator[None]:
    """Millions of small objects are made, and none is garbage: the search for it would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def find_faults(content: Mapping[str, Any], path: str, masks: bool = False, evaluated: bool = False) -> List[Fault]:
    """Faults of images, categories and annotations.

    Args:
        content: of the file, see `read_coco`.
        path: its name, for messages.
        masks: whether the data set loads masks; if not, they are not looked at.
        evaluated: whether predictions are compared with the file, which asks for more.
    """
    images, categories = content['images'], content['categories']
    with _without_gc():
        found = _image_faults(images, path) + _category_faults(categories, path)
        found += _annotation_faults(content.get('annotations', []), images, categories, path, masks, evaluated)
    return found


def _image_faults(images: Sequence[Any], path: str) -> List[Fault]:
    found = []
    ids: set = set()
    names: Dict[str, Any] = {}
    for row, image in enumerate(images):
        if not is_image(image) or size_of(image) is None:
            given = {key: image.get(key) for key in ('id', 'file_name', 'width', 'height')} if isinstance(image, dict) else image
            image_id = given['id'] if isinstance(given, dict) and is_id(given['id']) else None
            found.append(Fault(kinds.IMAGE_KEYS, path, f'images[{row}] is {_short(given)}', image_id, row=row))
        if not is_image(image):
            continue
        if image['id'] in ids:
            found.append(Fault(kinds.IMAGE_TWICE, path, f'images[{row}] has the id of another before it', image['id'], row=row))
        elif image['file_name'] in names:
            found.append(Fault(kinds.FILE_TWICE, path, f'{image["file_name"]} is image {names[image["file_name"]]}, too',
                               image['id'], row=row))
        ids.add(image['id'])
        names.setdefault(image['file_name'], image['id'])
    return found


def _category_faults(categories: Sequence[Any], path: str) -> List[Fault]:
    found = []
    ids: set = set()
    names: set = set()
    for row, category in enumerate(categories):
        kind = None
        if not isinstance(category, dict) or not is_id(category.get('id')) or not isinstance(category.get('name'), str):
            kind = kinds.CATEGORY_KEYS
        elif category['id'] in ids:
            kind = kinds.CATEGORY_TWICE
        elif category['name'] in names:
            kind = kinds.NAME_TWICE
        else:
            ids.add(category['id'])
            names.add(category['name'])
        if kind:
            found.append(Fault(kind, path, f'categories[{row}] is {_short(category)}', row=row))
    return found


def _annotation_faults(annotations: Sequence[Any], images: Sequence[Any], categories: Sequence[Any], path: str, masks: bool,
                       evaluated: bool) -> List[Fault]:
    found: List[Fault] = []
    rows = [row for row, annotation in enumerate(annotations) if isinstance(annotation, dict)]
    if len(rows) < len(annotations):
        found += [Fault(kinds.NO_OBJECT, path, f'annotations[{row}] is {_short(annotation)}', row=row)
                  for row, annotation in enumerate(annotations) if not isinstance(annotation, dict)]
    kept = [annotations[row] for row in rows]

    def add(kind: Kind, wrong: Any, key: str = '', severity: str = '', more: str = '') -> None:
        """Faults of the annotations at these places; ``key`` is what is wrong with them."""
        for i in (np.flatnonzero(wrong) if isinstance(wrong, np.ndarray) else wrong):
            annotation = kept[i]
            text = f'{key}={_short(annotation.get(key))}' if key in annotation else f'annotations[{rows[i]}] has no {key}'
            found.append(Fault(kind, path, text + (more and f' in {more}={where[i]}'), _usable(annotation.get('image_id')),
                               _usable(annotation.get('id')), severity, rows[i]))

    # ---- ids ----
    seen: set = set()
    without, twice = [], []
    for i, annotation in enumerate(kept):
        name = annotation.get('id')
        if not is_id(name):
            without.append(i)
        elif name in seen:
            twice.append(i)
        else:
            seen.add(name)
    add(kinds.NO_ID, without, 'id')
    add(kinds.ID_TWICE, twice, 'id')
    if evaluated and 0 in seen:  # pycocotools takes the id of a match for a truth value
        add(kinds.ID_ZERO, [i for i, annotation in enumerate(kept) if annotation.get('id') == 0], 'id')
    sizes = {image['id']: size_of(image) or (np.nan, np.nan) for image in reversed(images) if is_image(image)}
    where = [sizes.get(annotation.get('image_id')) if is_id(annotation.get('image_id')) else None for annotation in kept]
    add(kinds.NO_IMAGE, [i for i, size in enumerate(where) if size is None], 'image_id')
    known = {category['id'] for category in categories if isinstance(category, dict) and is_id(category.get('id'))}
    add(kinds.NO_CATEGORY, [i for i, annotation in enumerate(kept) if not is_id(annotation.get('category_id')) or
                            annotation['category_id'] not in known], 'category_id')

    # ---- boxes; comparisons with the unknown, nan, are False ----
    boxes = _numbers([annotation.get('bbox') for annotation in kept], 4)
    width, height = np.array([size or (np.nan, np.nan) for size in where], float).reshape(-1, 2).T
    x, y, w, h = boxes.T
    left = np.ones(len(kept), bool)  # each box has one fault at most

    def add_boxes(kind: Kind, wrong: np.ndarray, more: str = '') -> None:
        add(kind, left & wrong, 'bbox', more=more)
        left[wrong] = False

    with np.errstate(over='ignore', invalid='ignore'):
        add_boxes(kinds.NO_BOX, ~np.isfinite(boxes).all(1))
        add_boxes(kinds.NEGATIVE, (w < 0) | (h < 0))
        add_boxes(kinds.ZERO_BOX, (w == 0) | (h == 0))
        picture = '(width, height)'
        add_boxes(kinds.OUTSIDE, (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0), picture)
        add_boxes(kinds.THIN, (w < 1) | (h < 1))
        has_box = left.copy()
        add_boxes(kinds.BEYOND, (np.minimum(x, y) < -ROUNDING) | (x + w > width + ROUNDING) | (y + h > height + ROUNDING),
                  picture)

    # ---- areas and crowds ----
    areas = _numbers([annotation.get('area') for annotation in kept], 0)
    add(kinds.NO_AREA, ~np.isfinite(areas), 'area')
    add(kinds.ZERO_AREA, (areas <= 0) & has_box, 'area')
    add(kinds.NO_CROWD, [i for i, annotation in enumerate(kept) if annotation.get('iscrowd') not in (0, 1)], 'iscrowd',
        severity='' if evaluated else kinds.ADVICE)  # in training, it is 0 then

    if masks:
        for start in range(0, len(kept), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            for kind, i in _mask_faults(kept[part], np.stack([width, height], 1)[part], boxes[part], has_box[part]):
                more = picture if kind in (kinds.RLE_SIZE, kinds.POLYGON_BEYOND) else ''
                add(kind, [start + i], 'bbox' if kind is kinds.APART else 'segmentation', more=more)
    return found


def _mask_faults(annotations: Sequence[dict], sizes: np.ndarray, boxes: np.ndarray,
                 has_box: np.ndarray) -> Iterator[Tuple[Kind, int]]:
    """Kind and place of what is wrong with masks; each mask has one fault at most."""
    polygons: List[list] = []
    owners: List[int] = []
    rles: List[int] = []
    for i, annotation in enumerate(annotations):
        mask = annotation.get('segmentation')
        if mask is None or mask == [] or mask == {}:
            yield kinds.NO_MASK, i
        elif isinstance(mask, list) and all(type(polygon) is list for polygon in mask):
            polygons += mask
            owners += [i] * len(mask)
        elif isinstance(mask, dict) and isinstance(mask.get('counts'), (str, list)) and _is_size(mask.get('size')):
            rles.append(i)
        else:
            yield kinds.OTHER_FORM, i

    for i, rle_size in [(i, annotations[i]['segmentation']['size']) for i in rles]:
        if not np.isnan(sizes[i]).any() and rle_size[::-1] != sizes[i].tolist():
            yield kinds.RLE_SIZE, i
    pixels, _ = run_lengths([annotations[i]['segmentation']['counts'] for i in rles])
    for i, count in zip(rles, pixels.tolist()):
        mask_height, mask_width = annotations[i]['segmentation']['size']
        if count != mask_height * mask_width and (np.isnan(sizes[i]).any() or [mask_width, mask_height] == sizes[i].tolist()):
            yield kinds.RLE_DAMAGED, i

    lengths, owner = np.array([len(polygon) for polygon in polygons], int), np.array(owners, int)
    bad = set(owner[lengths % 2 == 1].tolist())
    numeric = set(map(type, chain.from_iterable(polygons))) <= {int, float}
    if not numeric:
        bad |= {i for i, polygon in zip(owners, polygons) if not set(map(type, polygon)) <= {int, float}}
    usable = np.array([i not in bad for i in owners], bool) if bad else np.ones(len(owners), bool)
    few = set(owner[usable & (lengths < 6)].tolist())
    usable &= lengths >= 6
    kept = [polygon for polygon, is_usable in zip(polygons, usable.tolist()) if is_usable]
    if kept:
        corners = _coordinates(kept)
        owner, first = owner[usable], np.concatenate([[0], np.cumsum(lengths[usable])[:-1]]) // 2
        low, high = np.minimum.reduceat(corners, first), np.maximum.reduceat(corners, first)
        of_owner = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
        low, high, owner = np.minimum.reduceat(low, of_owner), np.maximum.reduceat(high, of_owner), owner[of_owner]
        bad |= set(owner[~(np.isfinite(low) & np.isfinite(high)).all(1)].tolist())
        box = np.where(has_box[owner][:, None], boxes[owner], np.nan)
        apart = ((high < box[:, :2]) | (low > box[:, :2] + box[:, 2:])).any(1)
        beyond = ((low < -ROUNDING) | (high > sizes[owner] + ROUNDING)).any(1)
        for kind, wrong in ((kinds.APART, apart), (kinds.POLYGON_BEYOND, beyond & ~apart)):
            for i in owner[wrong].tolist():
                if i not in bad and i not in few:
                    yield kind, i
    for kind, places in ((kinds.NO_POINTS, bad), (kinds.FEW_POINTS, few - bad)):
        for i in sorted(places):
            yield kind, i


def _coordinates(polygons: Sequence[list]) -> np.ndarray:
    """x and y (N, 2) of the corners of all polygons."""
    try:
        return np.fromiter(chain.from_iterable(polygons), float).reshape(-1, 2)
    except OverflowError:  # a whole number beyond the floats
        return _numbers([[value] for value in chain.from_iterable(polygons)], 1).reshape(-1, 2)


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and 0 < side < 2**31 for side in value)


def _numbers(values: Sequence[Any], count: int) -> np.ndarray:
    """(N, count) floats, or (N,) with a count of 0; nan where a value is no number, or no list of so many."""
    shape = (len(values), count) if count else (len(values), )
    try:
        array = np.array(values)
        if array.dtype.kind in 'iuf' and array.shape == shape:
            return array.astype(float)
    except (ValueError, OverflowError):  # lists of several lengths
        pass
    array = np.full(shape, np.nan)
    for i, value in enumerate(values):
        numbers = value if count else [value]
        if isinstance(numbers, list) and len(numbers) == (count or 1) and all(type(number) in (int, float) for number in numbers):
            try:
                array[i] = [float(number) for number in numbers] if count else float(value)
            except OverflowError:
                pass
    return array


def _usable(value: Any) -> Any:
    return value if is_id(value) else None


def _short(value: Any) -> str:
    if isinstance(value, dict) and 'size' in value:
        value = {'size': value['size'], **value}  # COCO's RLE has the counts first, which are long
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'
