"""A folder with a user's own data: what it holds, and how a part is held out of it for validation."""
import hashlib
import os
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from hybrid_mm.errors import SetupError

BOXES, MASKS, MAPS = 'boxes', 'masks', 'label maps'
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
SEED = 0  # of the split
SHARE, MOST = 0.2, 1000  # pictures to hold out
_DEPTH = 4  # folders below the one that is given
_ROLES = r'(?:annot\w*|images?|masks?|labels?)?$'  # that may follow in one word
_SPLITS = (('train', r'train(?:ing|val)?' + _ROLES), ('val', r'(?:mini)?val(?:id|idation)?' + _ROLES), ('val', 'dev$'),
           ('test', r'test(?:ing)?' + _ROLES))

Tree = Mapping[Path, List[str]]  # folder, from the root -> names of its files


class OwnPart(NamedTuple):
    """Data for training, validation or testing.

    Attributes:
        pictures: their folder.
        annotations: a COCO file, or a folder of label maps.
        names: of label maps, those of its pictures without their ending, as lines of a list; empty for all in the folder.
        content: of the COCO file.
        number: of pictures.
    """
    pictures: Path
    annotations: Path
    names: Sequence[str] = ()
    content: Optional[Dict[str, Any]] = None
    number: int = 0


@dataclass
class OwnFolder:
    """What a folder holds.

    Attributes:
        root: the folder.
        task: `BOXES`, `MASKS` or `MAPS`.
        classes: their names.
        parts: by split; there is one for training.
        notes: sentences for the user about what was assumed.
        picture_ending, map_ending: what follows the names of pictures and their label maps, such as ``.jpg`` and ``_mask.png``.
        reduce_zero_label: whether 0 in the label maps is no class.
        new_values: number of the class by value in the label maps, where these have to be written anew.
        listed: splits whose pictures have to be listed, as their folders hold others.
        pixels: of each class in the label maps for training.
    """
    root: Path
    task: str
    classes: Sequence[str]
    parts: Dict[str, OwnPart]
    notes: List[str] = field(default_factory=list)
    picture_ending: str = ''
    map_ending: str = ''
    reduce_zero_label: bool = False
    new_values: Optional[Dict[int, int]] = None
    listed: List[str] = field(default_factory=list)
    pixels: Sequence[int] = ()


def tree_of(root: Path) -> Dict[Path, List[str]]:
    """The files of a folder and of those below it, but for hidden ones."""
    tree = {}
    for place, folders, files in os.walk(root):
        relative = Path(place).relative_to(root)
        folders[:] = sorted(name for name in folders if not name.startswith('.') and len(relative.parts) < _DEPTH)
        tree[relative] = sorted(name for name in files if not name.startswith('.'))
    return tree


def fingerprint(root: Path) -> str:
    """Changes where a file of a folder comes, goes or is written anew."""
    digest = hashlib.sha256()
    for folder, names in tree_of(root).items():
        for name in names:
            state = os.stat(root / folder / name)
            digest.update(f'{folder / name}\0{state.st_size}\0{state.st_mtime_ns}\n'.encode())
    return digest.hexdigest()


def split_of(*names: str) -> Optional[str]:
    """train, val or test, by the words in the first name that has one, such as ``instances_train2017`` or ``validation``."""
    for name in names:
        for word in re.findall(r'[a-z]+', name.lower()):
            for split, pattern in _SPLITS:
                if re.match(pattern, word):
                    return split
    return None


def hold_out(names: Iterable[Any]) -> Tuple[List[Any], List[Any]]:
    """Those for training and those for validation: a fifth, at most 1000, drawn by chance, the same for the same names.

    Raises:
        SetupError: there is one name, or none.
    """
    ordered = sorted(names)
    if len(ordered) < 2:
        raise SetupError(f'{len(ordered)} annotated pictures are too few: one has to be held out for validation; give 2 or more')
    drawn = set(random.Random(SEED).sample(range(len(ordered)), min(MOST, max(1, round(SHARE * len(ordered))))))
    return ([name for i, name in enumerate(ordered) if i not in drawn], [ordered[i] for i in sorted(drawn)])


def told_hold_out(train: int, val: int) -> str:
    """The sentence about a split."""
    return (f'There is no part for validation: {val} of {train + val} pictures were drawn for it (seed {SEED}). If several '
            'pictures show the same scene, video or patient, make train and val folders yourself, or the figures are too good.')
