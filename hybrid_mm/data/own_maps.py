"""A user's own folder of pictures and label maps: which belong together, and which classes the maps hold."""
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
from PIL import Image

from hybrid_mm.errors import SetupError, shorten

from .own_folder import MAPS, PICTURES, OwnFolder, OwnPart, Tree, hold_out, split_of, told_hold_out

_MAP_WORDS = r'mask|label|annot|(?:^|[^a-z])(?:gt|ann)(?:$|[^a-z])|ground.?truth|segmentation'
_NAME_FILES = ('classes', 'labels', 'class_names', 'label_names', 'names', 'categories')  # .txt or .json
_VOID = 255
_SPARSE = 20  # values that may be missing below the largest one
_NO_CLASS = ('__ignore__', )  # labelme's line for 255

Pair = Tuple[Path, Path]  # folder of pictures, folder of label maps, from the root


class _Match(NamedTuple):
    """Pictures with a label map."""
    folders: Pair
    names: List[str]  # without endings
    map_suffix: str  # what follows the name of a picture in that of its label map, such as _mask
    endings: List[str]  # of pictures
    unmatched: List[str]  # pictures without a label map


def find_maps(root: Path, tree: Tree) -> Optional[OwnFolder]:
    """What a folder of pictures and label maps holds; None if no picture has a label map beside it.

    Raises:
        SetupError: there is no part for training, pictures have several endings, or the label maps are none.
    """
    matches = _matches(tree)
    if not matches:
        return None
    if 'train' not in matches:
        raise SetupError(f'{root} has pictures with label maps for {shorten(matches)} and none for training; name the folders '
                         'train, val and test')
    endings = sorted({ending for match in matches.values() for ending in match.endings})
    if len(endings) > 1 or len({match.map_suffix for match in matches.values()}) > 1:
        raise SetupError(f'the pictures of {root} end in {shorten(endings)} and their label maps in '
                         f'{shorten(sorted(match.map_suffix + ".png" for match in matches.values()))}; save all with one ending')
    notes = [f'{len(match.unmatched)} pictures in {root / match.folders[0]} have no label map and are left out: '
             f'{shorten(match.unmatched)}.' for match in matches.values() if match.unmatched]
    parts = {split: OwnPart(root / match.folders[0], root / match.folders[1], match.names, None, len(match.names))
             for split, match in matches.items()}
    listed = [split for split, match in matches.items() if match.unmatched]
    lists = _lists(root, tree, parts['train'].names) if list(parts) == ['train'] else {}
    if lists:
        parts = {split: parts['train']._replace(names=names, number=len(names)) for split, names in lists.items()}
        listed = list(parts)
    if 'val' not in parts:
        train, val = hold_out(parts['train'].names)
        whole = parts['train']
        for split, names in (('train', train), ('val', val)):
            parts[split] = whole._replace(names=names, number=len(names))
        listed = sorted({*listed, 'train', 'val'})
        notes.append(told_hold_out(len(train), len(val)))
    parts = {split: parts[split] for split in ('train', 'val', 'test') if split in parts}
    found = OwnFolder(root, MAPS, (), parts, notes, endings[0], f'{matches["train"].map_suffix}.png', listed=listed)
    _read_classes(found, tree)
    return found


def map_paths(folder: OwnFolder, *splits: str) -> List[Path]:
    """The label maps of some parts, or of all."""
    parts = [folder.parts[split] for split in splits or folder.parts]
    return [part.annotations / f'{name}{folder.map_ending}' for part in parts for name in part.names]


def write_new_values(folder: OwnFolder, out: Path) -> None:
    """Write the label maps of a folder with ``new_values`` to another place, which the parts then name."""
    table = np.full(256, _VOID, np.uint8)
    for value, label in (folder.new_values or {}).items():
        table[value] = label
    for split, part in folder.parts.items():
        for name in part.names:
            path = out / split / f'{name}{folder.map_ending}'
            path.parent.mkdir(parents=True, exist_ok=True)
            values = _values(part.annotations / path.name)
            if values is not None:  # of one that cannot be read the check of the data speaks
                Image.fromarray(table[values]).save(path)
        folder.parts[split] = part._replace(annotations=out / split)


def _matches(tree: Tree) -> Dict[str, _Match]:
    """The best pair of folders of each split; ``train`` alone where no folder is of a split."""
    maps = [folder for folder, files in tree.items() if _is_of_maps(folder) and any(name.endswith('.png') for name in files)]
    pictures = [folder for folder, files in tree.items() if not _is_of_maps(folder) and any(map(_is_picture, files))]
    found: Dict[Optional[str], _Match] = {}
    for one in pictures:
        for other in maps:
            splits = {_split(one), _split(other)} - {None}
            match = _match(tree, (one, other)) if len(splits) < 2 else None
            split = splits.pop() if splits else None
            if match and (split not in found or len(match.names) > len(found[split].names)):
                found[split] = match
    if set(found) == {None}:
        return dict(train=found[None])
    return {split: match for split, match in found.items() if split is not None}


def _split(folder: Path) -> Optional[str]:
    return split_of(*reversed(folder.parts))


def _is_of_maps(folder: Path) -> bool:
    """Whether the name of a folder, or of one above it, says that it holds label maps."""
    return any(re.search(_MAP_WORDS, part.lower()) for part in folder.parts)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES)


def _match(tree: Tree, folders: Pair) -> Optional[_Match]:
    """Pictures of one folder that have a label map in the other, of the same name or with the same few letters behind it."""
    pictures = {Path(name).stem: Path(name).suffix for name in tree[folders[0]] if _is_picture(name)}
    maps = {Path(name).stem for name in tree[folders[1]] if name.endswith('.png')}
    suffixes = Counter(other[len(name):] for name in sorted(pictures)[:20] for other in maps
                       if other.startswith(name) and not other[len(name):][:1].isalnum())
    if not suffixes:
        return None
    suffix = min(suffixes, key=lambda text: (-suffixes[text], len(text)))
    names = sorted(name for name in pictures if name + suffix in maps)
    return _Match(folders, names, suffix, sorted({pictures[name] for name in names}), sorted(set(pictures) - set(names)))


def _lists(root: Path, tree: Tree, names: Sequence[str]) -> Dict[str, List[str]]:
    """Names by split, of lists such as ImageSets/Segmentation/train.txt of Pascal VOC."""
    known: Set[str] = set(names)
    found: Dict[str, List[str]] = {}
    for folder, files in tree.items():
        for file in files:
            split = split_of(Path(file).stem) if file.lower().endswith('.txt') else None
            lines = (root / folder / file).read_text(errors='replace').split() if split and len(Path(file).stem) < 12 else []
            listed = [line for line in dict.fromkeys(lines) if line in known]
            if split and 2 * len(listed) > len(lines) and len(listed) > len(found.get(split, ())):
                found[split] = listed
    return found if 'train' in found else {}


def _values(path: Path) -> Optional[np.ndarray]:
    """Numbers of a label map as its file has them, the index of a palette; None if it cannot be read.

    Raises:
        SetupError: it has colours.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except Exception:  # what it raises depends on the format; the check of the data says what is wrong
        return None
    if values.ndim == 3:
        colours = values[..., :3] if values.shape[2] > 2 else values[..., :1]
        if (colours != colours[..., :1]).any():
            raise SetupError(f'{path} is in colours; a label map has one channel with the number of the class at each pixel, 0 '
                             f'for the first and {_VOID} for none: replace each colour by a number, and save them again')
        values = colours[..., 0]
    return values.astype(np.uint8) if values.dtype == bool else values


def _read_classes(folder: OwnFolder, tree: Tree) -> None:
    """Fill in what the label maps hold."""
    seen, in_channels = set(), False
    pixels: Counter = Counter()  # by value, of the part for training
    of_training = set(map_paths(folder, 'train'))
    for path in map_paths(folder):
        values = _values(path)
        if values is not None:
            found, numbers = np.unique(values, return_counts=True)
            seen |= set(found.tolist())
            if path in of_training:
                pixels.update(dict(zip(found.tolist(), numbers.tolist())))
            with Image.open(path) as image:
                in_channels |= len(image.getbands()) > 1
    names, file = _names(folder.root, tree)
    values = sorted(seen - {_VOID})
    held = f'the label maps of {folder.root} hold {shorten(sorted(seen), 12)}'
    if _VOID in seen and values == [0] or len(values) == 2 and values[0] == 0 and values[1] > 1 and len(names) in (0, 2):
        # two values that are no numbers of classes, as programs save masks
        value = _VOID if values == [0] else values[1]
        folder.new_values = {0: 0, value: 1}
        folder.notes.append(f'{held[0].upper()}{held[1:]}: 0 is taken for the background, {value} for the object, and copies '
                            'have 0 and 1 instead.')
        values = [0, 1]
        names = names or ['background', 'object']
    elif in_channels:
        folder.new_values = {value: value for value in values}
        folder.notes.append('The label maps have several channels, all the same; copies have one.')
    if len(values) < 2 and not (len(values) == 1 and len(names) > 1):
        raise SetupError(f'{held}: that is {len(values)} class; there have to be two, of which one may be the background')
    largest = values[-1]
    folder.reduce_zero_label = largest == len(names) if names else 0 not in values
    needed = largest + 1 - folder.reduce_zero_label
    if names and needed > len(names):
        raise SetupError(f'{held}, and {file} names {len(names)} classes, 0 to {len(names) - 1}; name all, or save what is no '
                         f'class as {_VOID}')
    if not names and needed > 2 * len(values) + _SPARSE or largest > _VOID:
        raise SetupError(f'{held}; numbers of classes go from 0 without gaps, and {_VOID} is none: save them so, or name the '
                         f'classes, one a line, in {folder.root / "classes.txt"}')
    if not names:
        names = [f'class {value}' for value in range(folder.reduce_zero_label, largest + 1)]
        folder.notes.append(f'{folder.root} has no classes.txt with names, one a line: the classes are called by their numbers.')
    if folder.reduce_zero_label:
        folder.notes.append(f'{held[0].upper()}{held[1:]}: 0 is taken for unlabelled, and {names[0]!r} is 1.')
    folder.classes = tuple(names)
    values_of = {label: value for value, label in folder.new_values.items()} if folder.new_values else {}
    labels = range(folder.reduce_zero_label, len(names) + folder.reduce_zero_label)
    folder.pixels = [pixels[values_of.get(label, label)] for label in labels]


def _names(root: Path, tree: Tree) -> Tuple[List[str], Optional[Path]]:
    """Names of the classes, and the file that has them."""
    for folder in sorted(tree, key=lambda folder: len(folder.parts)):
        for name in tree[folder]:
            path = root / folder / name
            if path.stem.lower() in _NAME_FILES and path.suffix.lower() in ('.txt', '.json'):
                text = path.read_text(encoding='utf-8-sig', errors='replace')
                names = _of_json(text) if path.suffix.lower() == '.json' else _of_lines(text.splitlines())
                if names:
                    return names, path
    return [], None


def _of_lines(lines: Iterable[str]) -> List[str]:
    """Names, one a line; numbers in front of all of them are left out."""
    found = [line.strip() for line in lines if line.strip() and line.strip() not in _NO_CLASS]
    numbered = [re.match(r'\d+[\s:,]+(\S.*)', line) for line in found]
    return [match[1] if match and all(numbered) else line for match, line in zip(numbered, found)]


def _of_json(text: str) -> List[str]:
    """Names in a list, or by their number, or the numbers by name."""
    try:
        content: Any = json.loads(text)
    except ValueError:
        return []
    if isinstance(content, dict) and isinstance(content.get('classes'), (list, dict)):
        content = content['classes']
    if isinstance(content, dict) and all(isinstance(value, int) for value in content.values()):
        content = sorted(content, key=lambda name: content[name])
    elif isinstance(content, dict) and all(key.isdigit() for key in content):
        content = [content[key] for key in sorted(content, key=int)]
    names = [entry.get('name') if isinstance(entry, dict) else entry for entry in content] if isinstance(content, list) else []
    return [str(name) for name in names] if all(isinstance(name, str) and name for name in names) else []
