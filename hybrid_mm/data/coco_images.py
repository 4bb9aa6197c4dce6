"""Entries of images in a COCO annotation file, and whether their sizes are those of the pictures."""
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from . import faults as kinds
from .faults import Fault, Kind


def is_id(value: Any) -> bool:
    """Whether a value serves as an id: a whole number, or a string."""
    return type(value) in (int, str) or type(value) is float and value.is_integer()


def has_name(image: Any) -> bool:
    """Whether an entry names its picture."""
    return isinstance(image, dict) and isinstance(image.get('file_name'), str) and bool(image['file_name'])


def is_image(image: Any) -> bool:
    """Whether an entry has an id, and the name of its picture."""
    return has_name(image) and is_id(image.get('id'))


def size_of(image: Any) -> Optional[Tuple[int, int]]:
    """Width and height of an entry of a file; None where they are no positive whole numbers."""
    width, height = image.get('width'), image.get('height')
    return (width, height) if type(width) is type(height) is int and 0 < width < 2**31 and 0 < height < 2**31 else None


def size_fault(size: Tuple[int, int], stored: Tuple[int, int], orientation: int) -> Optional[Kind]:
    """What is wrong with width and height in the file; both ways in which EXIF lets a picture be read are right."""
    if size == stored or orientation >= 5 and size == stored[::-1]:
        return None
    return kinds.SWAPPED if size == stored[::-1] else kinds.OTHER_SIZE


def sizes_unlike(images: Sequence[Any], path: str, stored: Mapping[str, Tuple[Tuple[int, int], int]]) -> List[Fault]:
    """Faults of images whose size is not that of the picture: ``stored`` has size and orientation by file name."""
    found = []
    for row, image in enumerate(images):
        if not is_image(image) or image['file_name'] not in stored:
            continue
        size, (real, orientation) = size_of(image), stored[image['file_name']]
        kind = size_fault(size, real, orientation) if size else None
        if kind:
            found.append(Fault(kind, path, f'{image["file_name"]} has {real[0]}x{real[1]} pixels (width x height), the file says '
                               f'width={image["width"]}, height={image["height"]}', image['id'], row=row))
    return found
