"""What can be wrong with data: the kinds of faults, how grave each is, and one fault found.

A *fault* stops a training. A *mild* fault is left out by the loader itself, or changes next to nothing: a few are counted in a
warning, many stop. *Advice* is no fault, but costs accuracy.
"""
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence

from hybrid_mm.errors import shorten

FAULT, MILD, ADVICE = 'fault', 'mild', 'advice'


class Kind(NamedTuple):
    """A kind of faults."""
    name: str
    severity: str
    remedy: str  # for a COCO file: what a cleaned copy has instead


# ---- a COCO annotation file; the order is that of reports ----
IMAGE_KEYS = Kind('image without id, file_name, width or height', FAULT, 'left out, with its annotations')
IMAGE_TWICE = Kind('image id twice', FAULT, 'left out')
FILE_TWICE = Kind('file name twice', FAULT, 'left out, its annotations go to the first')
SWAPPED = Kind('width and height swapped', FAULT, 'given the size of the picture')
OTHER_SIZE = Kind('width and height of another picture', FAULT, 'given the size of the picture')
CATEGORY_KEYS = Kind('category without id or name', FAULT, 'left out')
CATEGORY_TWICE = Kind('category id twice', FAULT, 'left out')
NAME_TWICE = Kind('category name twice', FAULT, 'left out, its annotations go to the first')
NO_OBJECT = Kind('annotation that is no object', FAULT, 'left out')
NO_ID = Kind('annotation without id', FAULT, 'given a new id')
ID_TWICE = Kind('annotation id twice', FAULT, 'given a new id, or left out where the annotation itself is there twice')
NO_IMAGE = Kind('annotation of an image that is not there', FAULT, 'left out')
NO_CATEGORY = Kind('category id that categories lacks', FAULT, 'left out')
NO_BOX = Kind('box that is not four numbers', FAULT, 'left out')
NEGATIVE = Kind('box of negative width or height', FAULT, 'left out')
NO_AREA = Kind('annotation without area', FAULT, 'given the area of its mask or box')
NO_CROWD = Kind('annotation without iscrowd', FAULT, 'given iscrowd=0')
NO_MASK = Kind('annotation without segmentation', FAULT, 'left out')
OTHER_FORM = Kind('segmentation that is neither polygons nor RLE', FAULT, 'left out')
NO_POINTS = Kind('polygon that is no list of x and y', FAULT, 'left out')
APART = Kind('mask apart from its box', FAULT, 'left out')
RLE_SIZE = Kind('RLE of another size than its image', FAULT, 'left out')
RLE_DAMAGED = Kind('RLE that cannot be decoded', FAULT, 'left out')
ZERO_BOX = Kind('box without width or height', MILD, 'left out')
OUTSIDE = Kind('box outside of the picture', MILD, 'left out')
THIN = Kind('box thinner than a pixel', MILD, 'left out')
BEYOND = Kind('box beyond the picture', MILD, 'clipped')
ZERO_AREA = Kind('area of 0 or less', MILD, 'given the area of its mask or box')
FEW_POINTS = Kind('polygon of fewer than three points', MILD, 'left out')
POLYGON_BEYOND = Kind('polygon beyond the picture', MILD, 'clipped')
ID_ZERO = Kind('annotation id 0', ADVICE, 'given a new id')
# ---- pictures, label maps, lists ----
UNREADABLE = Kind('picture that cannot be read', FAULT, '')
NO_MAP = Kind('label map that cannot be read', FAULT, '')
MAP_UNFIT = Kind('label map that does not fit', FAULT, '')
LABEL = Kind('label outside of the classes', FAULT, '')
NOT_BUILT = Kind('data set that cannot be built', FAULT, '')
EMPTY = Kind('data set without pictures', FAULT, '')
# ---- what costs accuracy ----
ZERO_LABEL = Kind('reduce_zero_label and the label maps', ADVICE, '')
IGNORED = Kind('value for no class', ADVICE, '')
NUM_CLASSES = Kind('values above num_classes', ADVICE, '')
SHARED = Kind('picture in train and in val or test', ADVICE, '')
SHARED_NAME = Kind('file name in train and in val or test', ADVICE, '')
COPY = Kind('the same picture under two names', ADVICE, '')
NO_EXAMPLE = Kind('class without an example', ADVICE, '')
TINY = Kind('boxes below a stride', ADVICE, '')
TURNED = Kind('picture with an EXIF orientation', ADVICE, '')

KINDS: Dict[str, Kind] = {kind.name: kind for kind in list(globals().values()) if isinstance(kind, Kind)}


@dataclass
class Fault:
    """One fault.

    Attributes:
        kind: what is wrong.
        file: where: the annotation file, picture or label map; the setting of the config if there is none.
        message: the value that is wrong, and what it should be.
        image_id, annotation_id: as the annotation file has them.
        severity: that of its kind, unless this file bears it better.
        row: place in the list of images, categories or annotations of a COCO file.
    """
    kind: Kind
    file: str
    message: str
    image_id: Any = None
    annotation_id: Any = None
    severity: str = ''
    row: int = -1

    def __post_init__(self) -> None:
        self.severity = self.severity or self.kind.severity

    def to_dict(self) -> Dict[str, Any]:
        """For a report in JSON."""
        return dict(kind=self.kind.name, severity=self.severity, file=self.file, image_id=self.image_id,
                    annotation_id=self.annotation_id, message=self.message)

    def __str__(self) -> str:
        named = (('image', self.image_id), ('annotation', self.annotation_id))
        where = ', '.join(f'{what} {value}' for what, value in named if value is not None)
        return f'{self.file}: {where}{": " if where else ""}{self.message}'


def by_kind(faults: Iterable[Fault]) -> Dict[str, List[Fault]]:
    """Faults of each kind that there is, the grave ones first, in the order of `KINDS`."""
    found: Dict[str, List[Fault]] = defaultdict(list)
    for fault in faults:
        found[fault.kind.name].append(fault)
    gravity = (FAULT, MILD, ADVICE)
    names = sorted(found, key=lambda name: (min(gravity.index(fault.severity) for fault in found[name]), list(KINDS).index(name)))
    return {name: found[name] for name in names}


def ids(faults: Sequence[Fault], limit: int = 5) -> str:
    """``'images 1, 2; annotations 7, 8 and 3 more'``: ids of the first faults, each once."""
    parts = []
    for what in ('image', 'annotation'):
        values: List[Optional[Any]] = list(dict.fromkeys(
            repr(value) if isinstance(value, str) else str(value)
            for value in (getattr(fault, f'{what}_id') for fault in faults) if value is not None))
        if values:
            parts.append(f'{what}{"s" if len(values) > 1 else ""} {shorten(values, limit)}')
    return '; '.join(parts)
