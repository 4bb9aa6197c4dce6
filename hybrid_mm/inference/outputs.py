"""The files that are written, and the form of ``predictions.json``.

The folder:

- ``pictures/``: each picture with what was found, as JPEG where the file was one, otherwise as PNG; of a video ``<name>.mp4``.
- ``label_maps/``: of a segmentor, one PNG a picture; a pixel is the index of its class, the first one being 0.
- ``predictions.json``: an object with ``task`` (detection, segmentation or classification), ``config`` and ``checkpoint`` (file
  names), ``classes`` (names; an index into them is a label), ``score_thr`` of a detector, of a video ``video`` (file name) and
  ``fps``, and a list: ``images``, in the order of the file names, or ``frames``, in their own.

An entry of the list has ``file``, the picture's name, or ``frame``, from 0, and ``time`` in seconds; ``width`` and ``height``;
``picture``, the drawn one below the folder, which frames lack; and

- of a detector ``instances``, each with ``label``, ``class``, ``score``, ``bbox`` [x1, y1, x2, y2] in pixels, and ``mask``,
  COCO's compressed RLE, where the network predicts masks;
- of a segmentor ``label_map``, the file below the folder, and ``shares``: ``label``, ``class`` and ``share`` of the pixels,
  from the largest on, of the classes that occur;
- of a classifier ``top``, the five best: ``label``, ``class`` and ``score``.
"""
import json
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Sequence, Tuple

import cv2
import numpy as np

from hybrid_mm.data.samples import silent_opencv
from hybrid_mm.errors import SetupError

from .predictors import Predictor, Segmentor

_CODECS = (('mp4v', '.mp4'), ('MJPG', '.avi'))  # every OpenCV has the second


@contextmanager
def predictions_file(folder: Path, head: Dict[str, Any], name: str) -> Iterator[Callable[[Dict[str, Any]], None]]:
    """``predictions.json``, see the module: a function that adds an entry to the list ``name``, which follows ``head``.

    Each entry reaches the disk as soon as it is there, in ``predictions.json.partial``, which takes its name when all are.
    """
    partial, comma = folder / 'predictions.json.partial', ''
    with open(partial, 'w') as file:

        def add(entry: Dict[str, Any]) -> None:
            nonlocal comma
            file.write(f'{comma}\n  {json.dumps(entry)}')
            file.flush()
            comma = ','

        file.write('{\n' + ''.join(f' {json.dumps(key)}: {json.dumps(value)},\n' for key, value in head.items()))
        file.write(f' {json.dumps(name)}: [')
        try:
            yield add
        finally:
            file.write('\n ]\n}\n')  # after an error too, so that what is there can be read
    os.replace(partial, folder / 'predictions.json')


def output_names(files: Sequence[Path]) -> Dict[Path, str]:
    """Names of outputs: those of the files without the ending, but with it where only the endings differ."""
    counts = Counter(file.stem for file in files)
    return {file: file.stem if counts[file.stem] == 1 else file.name for file in files}


def open_writer(path: Path, fps: float, size: Tuple[int, int]) -> Tuple[Path, cv2.VideoWriter]:
    """Begin a video of ``fps`` pictures a second and ``size``, width and height; its file, and what writes to it.

    The ending of the file, which ``path`` lacks, depends on the codecs that there are.
    """
    for codec, ending in _CODECS:
        target = path.with_name(path.name + ending)
        with silent_opencv():
            writer = cv2.VideoWriter(str(target), cv2.VideoWriter_fourcc(*codec), fps, size)
        if writer.isOpened():
            return target, writer
    raise SetupError(f'{path.name} cannot be written as a video to {path.parent}; give another folder with --out')


def write_image(path: Path, image: np.ndarray) -> None:
    """Write uint8 (H, W, 3), BGR, or a label map, uint8 or uint16 (H, W), in the format that the ending of the file says."""
    if not cv2.imwrite(str(path), image):
        raise SetupError(f'{path} cannot be written; give another folder with --out')


def write_label_map(predictor: Predictor, sample: Any, out: Path, name: str) -> Dict[str, str]:
    """Write the label map of a segmentor; the entry that names it."""
    if not isinstance(predictor, Segmentor):
        return {}
    (out / 'label_maps').mkdir(exist_ok=True)
    write_image(out / 'label_maps' / f'{name}.png', predictor.label_map(sample))
    return dict(label_map=f'label_maps/{name}.png')
