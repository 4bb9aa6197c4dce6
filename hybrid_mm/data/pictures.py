"""Reads pictures and label maps, in several processes, and tells what each is."""
import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image

from hybrid_mm.errors import SetupError, first_line
from hybrid_mm.progress import Progress

from .samples import exif_orientation, label_map_fault, picture_fault

_CHUNK = 16  # pictures a process takes at a time


class LabelMap(NamedTuple):
    """A label map of a picture, and how the data set reads it; see `hybrid_mm.data.samples.label_map_fault`."""
    path: str
    num_classes: int
    reduce_zero_label: bool
    ignore_index: int
    others: Optional[Mapping[int, int]]  # class in the file -> class of the config, where the config has some of them
    backend: str  # of mmcv


class Facts(NamedTuple):
    """What a picture and its label map are."""
    fault: Optional[str]  # of the picture
    size: Optional[Tuple[int, int]]  # width and height, as stored
    orientation: int  # of EXIF
    digest: bytes  # of the file
    map_fault: Optional[str] = None
    map_unread: Optional[str] = None
    pixels: Dict[int, int] = {}  # of each value of the label map, as its file has them
    map_size: Optional[Tuple[int, int]] = None  # width and height


def read_pictures(paths: Sequence[str], maps: Sequence[Optional[LabelMap]], workers: int) -> List[Facts]:
    """Facts of each picture, with its label map if there is one.

    Args:
        paths: of pictures.
        maps: of each picture.
        workers: processes, 0 for this one.

    Raises:
        SetupError: a process died.
    """
    facts = []
    with Progress('pictures', len(paths)) as progress:
        if workers < 2 or len(paths) <= _CHUNK:
            return [look(path, label_map) for path, label_map in progress.over(list(zip(paths, maps)))]
        try:
            with ProcessPoolExecutor(workers, initializer=_one_thread) as pool:
                for fact in progress.over(pool.map(look, paths, maps, chunksize=_CHUNK)):
                    facts.append(fact)
        except BrokenProcessPool:
            raise SetupError(f'a process that read pictures died, perhaps for lack of memory, near {paths[len(facts)]}; use '
                             'fewer --workers, or 0 to see which picture it is') from None
    return facts


def read_sizes(paths: Sequence[str]) -> List[Optional[Tuple[Tuple[int, int], int]]]:
    """Size as stored and orientation of pictures, from their headers; None where there is none."""
    return [(size, exif_orientation(path)) if size else None for path, size in ((path, _stored_size(path)) for path in paths)]


def look(path: str, label_map: Optional[LabelMap] = None) -> Facts:
    """Facts of a picture."""
    fault = picture_fault(path)
    size, orientation = _stored_size(path), exif_orientation(path)
    digest = b''
    if os.path.isfile(path) and os.path.getsize(path):
        digest = hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    if label_map is None:
        return Facts(fault, size, orientation, digest)
    map_unread = picture_fault(label_map.path)
    if map_unread:
        return Facts(fault, size, orientation, digest, None, map_unread)
    try:
        labels = _read_map(label_map)
    except Exception as error:  # what it raises depends on the format
        return Facts(fault, size, orientation, digest, None, f'cannot be decoded: {first_line(error)}')
    shape = size[::-1] if size and not fault else labels.shape[:2]
    if orientation >= 5 and labels.shape[:2] == shape[::-1]:
        shape = labels.shape[:2]  # for the turned picture; the data guard loads it as the map wants it
    raw = labels
    if label_map.others and labels.ndim == 2:
        labels = _renumbered(labels, label_map)
    map_fault = label_map_fault(labels, (shape[0], shape[1]), label_map.num_classes,
                                label_map.reduce_zero_label and labels is raw, label_map.ignore_index)
    values, counts = np.unique(raw, return_counts=True) if raw.ndim == 2 and raw.dtype.kind in 'uib' else ([], [])
    pixels = {int(value): int(number) for value, number in zip(values, counts)}
    return Facts(fault, size, orientation, digest, map_fault, None, pixels, (labels.shape[1], labels.shape[0]))


def _read_map(label_map: LabelMap) -> np.ndarray:
    """As MMSegmentation reads it, but in the type that the file has."""
    import mmcv
    return mmcv.imfrombytes(Path(label_map.path).read_bytes(), flag='unchanged', backend=label_map.backend).squeeze()


def _renumbered(labels: np.ndarray, label_map: LabelMap) -> np.ndarray:
    """Classes of the config in place of those of the file."""
    reduced = labels.astype(np.int64)
    if label_map.reduce_zero_label:
        reduced = np.where((labels == 0) | (labels == label_map.ignore_index), label_map.ignore_index, reduced - 1)
    new = reduced.copy()
    for old, other in (label_map.others or {}).items():
        new[reduced == int(old)] = other
    return new


def _stored_size(path: str) -> Optional[Tuple[int, int]]:
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # what it raises depends on the format; `picture_fault` says what is wrong
        return None


def _one_thread() -> None:
    cv2.setNumThreads(0)
