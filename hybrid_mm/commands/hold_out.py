"""Hold images out of ImageNet's training data for a search.

If a search used the validation data, it would adapt to the images on which its result is judged later. This command writes two
lists: meta/search_val.txt has the same number of images of each class, evenly spaced in the order of their names, and
meta/search_train.txt has the rest. The images stay where they are.
"""
import argparse
import os
from pathlib import Path
from typing import List, Tuple

from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file

_EXTENSIONS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', type=Path, help='folder with train/<class>/<image>')
    parser.add_argument('--per-class', type=int, default=50, help='images to hold out of each class (default: %(default)s)')
    parser.add_argument('--force', action='store_true', help='overwrite the two lists')
    return parser


def run(args: argparse.Namespace) -> None:
    lists = [args.root / 'meta' / name for name in ('search_train.txt', 'search_val.txt')]
    existing = [path for path in lists if path.exists()]
    if existing and not args.force:
        raise SetupError(f'{existing[0]} exists; pass --force to overwrite it')
    parts = split(args.root / 'train', args.per_class)
    lists[0].parent.mkdir(exist_ok=True)
    for path, lines in zip(lists, parts):
        with whole_file(path) as partial:
            partial.write_text('\n'.join(lines) + '\n')
        print(f'{path}: {len(lines)} images')


def split(folder: Path, per_class: int) -> Tuple[List[str], List[str]]:
    """Lines 'class/image label' for training and for validation, of a folder that has one for each class."""
    if per_class < 1:
        raise SetupError(f'--per-class {per_class} is not allowed; choose 1 or more')
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if folder.is_dir() else []
    if not classes:
        raise SetupError(f'{folder} has no folders of classes; give the folder above train/<class>/<image>')
    parts: Tuple[List[str], List[str]] = ([], [])
    for label, name in enumerate(classes):
        images = sorted(image for image in os.listdir(folder / name) if image.lower().endswith(_EXTENSIONS))
        if len(images) <= per_class:
            raise SetupError(f'class {name} has {len(images)} images; choose --per-class below that')
        held_out = {(2 * i + 1) * len(images) // (2 * per_class) for i in range(per_class)}
        for number, image in enumerate(images):
            parts[number in held_out].append(f'{name}/{image} {label}')
    return parts
