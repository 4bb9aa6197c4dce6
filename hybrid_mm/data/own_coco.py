"""A user's own folder in COCO's layout: which file is for what, where its pictures are, and whether it has masks."""
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from hybrid_mm.errors import SetupError, shorten

from .coco_faults import read_coco
from .coco_images import has_name, is_id, is_image
from .datasets import read_categories
from .own_folder import BOXES, MASKS, OwnFolder, OwnPart, Tree, hold_out, split_of, told_hold_out

_LOOKS = 20  # pictures that are looked for in a folder, evenly spread
_MOST = 0.95  # share of masks that are drawn boxes, above which there are none


def find_coco(root: Path, tree: Tree) -> Optional[OwnFolder]:
    """What a folder with annotation files of COCO holds; None if it has none.

    Raises:
        SetupError: it cannot be told which file is for what, there is none for training, the files have different categories, or
            the pictures are not there.
    """
    files = _choose(root, [folder / name for folder, names in tree.items() for name in names if name.lower().endswith('.json')])
    if not files:
        return None
    notes, parts, masked = [], {}, {}
    for split, path in files.items():
        content = read_coco(str(root / path))
        if split == 'test' and not content['annotations']:
            notes.append(f'{root / path} has no annotations and is left out.')
            continue
        images = [image for image in content['images'] if has_name(image)]
        if not images or not content['annotations']:
            raise SetupError(f'{root / path} has {len(images)} pictures and {len(content["annotations"])} annotations; it needs '
                             'some of both')
        folder = _pictures_of(root, tree, path, split, [image['file_name'] for image in images])
        parts[split] = OwnPart(root / folder, root / path, (), content, len(images))
        masked[split] = _has_masks(content['annotations'])
    classes = _classes_of(parts)
    drawn = [split for split, (masks, boxes) in masked.items() if masks and boxes]
    if drawn:
        notes.append('The outlines of the annotations are their boxes, so that there are no masks to learn.')
    task = MASKS if all(masks and not boxes for masks, boxes in masked.values()) else BOXES
    if 'val' not in parts:
        parts['train'], parts['val'] = _held_out(parts['train'])
        notes.append(told_hold_out(parts['train'].number, parts['val'].number))
    return OwnFolder(root, task, classes, parts, notes)


def _choose(root: Path, paths: Sequence[Path]) -> Dict[str, Path]:
    """The file of each split, from the root."""
    found: Dict[Optional[str], List[Path]] = defaultdict(list)
    for path in paths:
        if _is_coco(root / path):
            found[split_of(path.stem, *reversed(path.parts[:-1]))].append(path)
    if not found:
        return {}
    if len(found) == 1 and None in found and len(found[None]) == 1:
        return dict(train=found[None][0])
    chosen = {}
    for split, files in found.items():
        best = [file for file in files if file.stem.startswith('instances')] or files
        if split is not None and len(best) > 1:
            raise SetupError(f'{root} has {len(best)} COCO files for {split}: {shorten(best)}; leave one of them there')
        if split is not None:
            chosen[split] = best[0]
    if 'train' not in chosen:
        there = shorten(path for files in found.values() for path in files)
        raise SetupError(f'{root} has no COCO file for training among {there}; name the files train.json, val.json and test.json')
    return {split: chosen[split] for split in ('train', 'val', 'test') if split in chosen}


def _is_coco(path: Path) -> bool:
    """Whether a file is one of COCO's with annotations of objects; a SetupError where it breaks off, or is a faulty one."""
    try:
        read_categories(str(path))
        return True
    except SetupError as error:
        if re.search('is incomplete|categories are no', str(error)) or not path.stat().st_size:
            raise SetupError(f'{error}; mend it, or take it away') from None
        return False


def _pictures_of(root: Path, tree: Tree, path: Path, split: str, names: Sequence[str]) -> Path:
    """The folder with the pictures of a file: the one that has the most of them; of several the one of its split, or near it."""
    some = [names[i * len(names) // min(_LOOKS, len(names))] for i in range(min(_LOOKS, len(names)))]

    def rank(folder: Path) -> Tuple[int, bool, bool, int]:
        there = sum(os.path.isfile(root / folder / name) for name in some)
        return there, split_of(*reversed(folder.parts)) == split, folder == path.parent, -len(folder.parts)

    best = max(tree, key=rank)
    if not rank(best)[0]:
        raise SetupError(f'{root / path} names {len(names)} pictures, such as {names[0]}, and none of them is in {root} or in '
                         f'{shorten(sorted(str(folder) for folder in tree if folder.parts), 8) or "a folder below it"}; put them '
                         f'into {root / split}')
    return best


def _has_masks(annotations: Sequence[Any]) -> Tuple[bool, bool]:
    """Whether most annotations have a mask, and whether these are but drawn boxes."""
    objects = [annotation for annotation in annotations if isinstance(annotation, dict)]
    masks = [annotation for annotation in objects if annotation.get('segmentation')]
    drawn = sum(_is_drawn_box(annotation) for annotation in masks)
    return 2 * len(masks) > len(objects), bool(masks) and drawn >= _MOST * len(masks)


def _is_drawn_box(annotation: Mapping[str, Any]) -> bool:
    """Whether a polygon has the corners of its box and no other."""
    try:
        (polygon, ), (x, y, width, height) = annotation['segmentation'], annotation['bbox']
        points = {(round(a), round(b)) for a, b in zip(polygon[::2], polygon[1::2])}
        return len(polygon) in (8, 10) and points == {(round(a), round(b)) for a in (x, x + width) for b in (y, y + height)}
    except (TypeError, ValueError, KeyError):
        return False


def _classes_of(parts: Mapping[str, OwnPart]) -> Tuple[str, ...]:
    """Names of the categories, in the order of the file for training; the others have the same."""
    names = {split: _names(part.content or {}) for split, part in parts.items()}
    for split, others in names.items():
        if others != names['train']:
            raise SetupError(f'{parts[split].annotations} has the categories {shorten(others, 10)}, and '
                             f'{parts["train"].annotations} has {shorten(names["train"], 10)}; give both the same, in one order')
    contents = [part.content or {} for part in parts.values()]
    categories = [category for content in contents for category in content['categories'] if isinstance(category, dict)]
    used = {annotation.get('category_id') for content in contents for annotation in content['annotations']
            if isinstance(annotation, dict) and isinstance(annotation.get('category_id'), (int, str))}
    # what Roboflow writes as a first category: the group of the others, without an object of its own
    groups = {category.get('supercategory') for category in categories if category.get('name') != category.get('supercategory')}
    empty = {category.get('name') for category in categories} - {category.get('name') for category in categories
                                                                 if category.get('id') in used}
    return tuple(name for name in names['train'] if name not in groups & empty)


def _names(content: Mapping[str, Any]) -> List[str]:
    return list(dict.fromkeys(category['name'] for category in content['categories']
                              if isinstance(category, dict) and isinstance(category.get('name'), str)))


def _held_out(part: OwnPart) -> Tuple[OwnPart, OwnPart]:
    """A part in two, whose files are not written yet; what is faulty stays with the first, to be found there."""
    content = part.content or {}
    drawn = set(hold_out({image['file_name'] for image in content['images'] if has_name(image)})[1])
    halves = []
    for in_val in (False, True):
        images = [image for image in content['images'] if (has_name(image) and image['file_name'] in drawn) == in_val]
        ids = {image['id'] for image in content['images'] if has_name(image) and image['file_name'] in drawn and is_image(image)}
        annotations = [annotation for annotation in content['annotations'] if _is_of(annotation, ids) == in_val]
        halves.append(part._replace(number=len(images), content=dict(content, images=images, annotations=annotations)))
    return halves[0], halves[1]


def _is_of(annotation: Any, ids: set) -> bool:
    image_id = annotation.get('image_id') if isinstance(annotation, dict) else None
    return is_id(image_id) and image_id in ids
