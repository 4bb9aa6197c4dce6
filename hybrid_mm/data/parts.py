"""A data set of a config, with what was read of it."""
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .coco_images import has_name
from .faults import Fault
from .pictures import Facts, LabelMap


class Entry(NamedTuple):
    """A picture of a data set."""
    path: str
    image_id: Any = None
    label_map: Optional[LabelMap] = None
    label: Any = None


@dataclass
class Part:
    """A data set that is no wrapper, and what was found of it.

    Attributes:
        splits: of the config that read it, such as ``['val', 'test']``.
        name: its setting in the config.
        file: annotation file, or the name.
        coco: content of the annotation file, if it is one of COCO's.
        masks, evaluated: see `hybrid_mm.data.coco_faults.find_faults`.
        entries: id, path, label map and class of each picture.
    """
    splits: List[str]
    name: str
    config: dict
    file: str = ''
    classes: Sequence[str] = ()
    coco: Optional[Dict[str, Any]] = None
    masks: bool = False
    evaluated: bool = False
    entries: List[Entry] = field(default_factory=list)
    facts: List[Facts] = field(default_factory=list)
    faults: List[Fault] = field(default_factory=list)

    @property
    def annotations(self) -> Optional[int]:
        """How many a COCO file has."""
        return None if self.coco is None else len(self.coco.get('annotations', []))

    @property
    def stored(self) -> Dict[str, Tuple[Tuple[int, int], int]]:
        """Sizes as stored and orientations by file name, of a COCO file."""
        names = [image['file_name'] for image in self.coco['images'] if has_name(image)] if self.coco else []
        return {name: (facts.size, facts.orientation) for name, facts in zip(names, self.facts) if facts.size and not facts.fault}
