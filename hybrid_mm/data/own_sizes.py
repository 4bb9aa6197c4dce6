"""What of a user's data decides about sizes in a config, and the choice."""
import os
from collections import Counter
from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np

from hybrid_mm.errors import SetupError

from .own_folder import MAPS, OwnFolder
from .pictures import read_sizes

_SEEN = 18  # pixels that the lower quarter of the objects should have
_LONG = {'cpu': (384, 480, 800), 'gpu': (800, 1024, 1333)}  # pixels of a long side: detector, segmentor, most for small objects
_LARGEST = 2  # times an enlargement
_LEAST = 64  # pixels of a short side, two cells of the last map
_ROUND = 2  # times as long as wide, up to which objects are called round


class Machine(NamedTuple):
    """What trains."""
    gpu: bool
    cores: int
    memory: Optional[float]  # GiB that are free, None if nobody says

    def __str__(self) -> str:
        return 'the GPU' if self.gpu else f'{self.cores} core{"s" if self.cores > 1 else ""}'


class Measures(NamedTuple):
    """Sizes of the pictures and objects for training, in pixels.

    Attributes:
        long, short: sides of a picture; the median of the long one, and what 19 of 20 short ones keep below beside it.
        same: whether all pictures have one size.
        small: what a quarter of the objects is smaller than, as the root of width times height.
        most: objects in one picture.
        long_objects: whether more than a fifth of them is long and thin.
    """
    long: int
    short: int
    same: bool
    small: Optional[float] = None
    most: int = 0
    long_objects: bool = False


class Sizes(NamedTuple):
    """The choice.

    Attributes:
        factor: by which a picture is resized.
        scale: longest width and height after it.
        reason: in words.
    """
    factor: float
    scale: Tuple[int, int]
    reason: str


def machine_here(gpu: bool) -> Machine:
    """This machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    try:
        with open('/proc/meminfo') as file:
            memory = next(int(line.split()[1]) / 2**20 for line in file if line.startswith('MemAvailable'))
    except (OSError, StopIteration):
        return Machine(gpu, cores, None)
    return Machine(gpu, cores, memory)


def measure(folder: OwnFolder) -> Measures:
    """Measures of the part for training, whose annotations have no faults."""
    part = folder.parts['train']
    if folder.task == MAPS:
        paths = [str(part.pictures / f'{name}{folder.picture_ending}') for name in part.names]
        return _of_pictures([found[0] for found in read_sizes(paths) if found])
    content = part.content or {}
    objects = [annotation for annotation in content['annotations'] if not annotation.get('iscrowd')]
    if not objects:
        raise SetupError(f'{part.annotations} has no objects but crowds to train on; give more annotated pictures')
    boxes = np.array([annotation['bbox'][2:] for annotation in objects], float).reshape(-1, 2)
    ratios = np.abs(np.log(boxes[:, 0] / boxes[:, 1]))
    return _of_pictures([(image['width'], image['height']) for image in content['images']])._replace(
        small=float(np.percentile(np.sqrt(boxes.prod(1)), 25)),
        most=max(Counter(annotation['image_id'] for annotation in objects).values()),
        long_objects=bool((ratios > np.log(_ROUND)).mean() > 0.2))


def _of_pictures(sizes: Sequence[Tuple[int, int]]) -> Measures:
    sides = np.sort(np.array(sizes).reshape(-1, 2))
    long = float(np.median(sides[:, 1]))
    return Measures(int(long), int(np.percentile(sides[:, 0] / sides[:, 1], 95) * long), len(set(sizes)) == 1)


def choose_sizes(measures: Measures, segmentor: bool, gpu: bool) -> Sizes:
    """How much pictures are resized: as far down as the machine needs, but not so that objects become too small."""
    detector, regions, most = _LONG['gpu' if gpu else 'cpu']
    usual = regions if segmentor else detector
    factor, why = min(1., usual / measures.long), f'their long side, {measures.long} pixels, is at most {usual} here'
    if measures.small is not None and measures.small * factor < _SEEN:
        small = f'three quarters of the objects, those of {measures.small:.0f} pixels and more, then have {_SEEN} or more'
        wanted = min(_SEEN / measures.small, _LARGEST, most / measures.long)
        if wanted > factor:
            factor, why = wanted, small if wanted == _SEEN / measures.small else (
                f'many objects are small, {measures.small:.0f} pixels; {_LARGEST} times and {most} pixels are the most')
    if measures.short * factor < _LEAST:
        factor, why = _LEAST / measures.short, f'the network needs {_LEAST} pixels'
    factor = round(factor, 2)
    return Sizes(factor, (round(measures.long * factor), round(measures.short * factor)), why)


def crop_within(crop: Sequence[int], scale: Tuple[int, int]) -> Tuple[int, int]:
    """Height and width of a crop that is no larger than the resized pictures, which may lie or stand."""
    return _whole(min(crop[0], min(scale))), _whole(min(crop[1], max(scale) if crop[1] > crop[0] else min(scale)))


def _whole(side: int) -> int:
    """A side of whole cells of the last map, of a stride of 32."""
    return side // 32 * 32
