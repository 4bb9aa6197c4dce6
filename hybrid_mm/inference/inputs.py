"""Pictures, folders of pictures and videos: what there is, and reading it."""
import itertools
import math
from pathlib import Path
from typing import Iterator, List, NamedTuple, Optional, Tuple, Union

import cv2
import mmcv
import numpy as np

from hybrid_mm.data.samples import silent_opencv
from hybrid_mm.errors import SetupError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')  # of the pictures in a folder
_FPS = 25.  # of a video that does not say


class Video(NamedTuple):
    """A video that OpenCV opens."""
    path: Path
    fps: float  # pictures a second
    total: Optional[int]  # number of pictures as the file says, None if it does not


def find_inputs(path: Path) -> Union[List[Path], Video]:
    """A picture, a video, or all files of a folder that end as pictures do, sorted, without those of folders inside.

    Raises:
        SetupError: there is nothing that can be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise SetupError(f'the folder {path} has no pictures; give one with files that end in {", ".join(SUFFIXES)}')
        return files
    if not path.is_file():
        raise SetupError(f'{path} does not exist; give a picture, a folder of pictures or a video')
    if path.suffix.lower() in SUFFIXES or cv2.haveImageReader(str(path)):
        if read_picture(path) is None:
            raise SetupError(f'{path} is no picture that OpenCV reads; give another file')
        return [path]
    with silent_opencv():
        capture = cv2.VideoCapture(str(path))
        is_video = capture.isOpened() and capture.read()[0]
    fps, total = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    capture.release()
    if not is_video:
        raise SetupError(f'{path} is neither a picture nor a video that OpenCV opens; give another file')
    # OpenCV says 0, a negative number or NaN where it does not know
    return Video(path, fps if math.isfinite(fps) and fps > 0 else _FPS, int(total) if 0 < total < math.inf else None)


def read_picture(path: Path) -> Optional[np.ndarray]:
    """A picture as uint8 (H, W, 3), BGR; None if it cannot be read."""
    try:
        with silent_opencv():
            return mmcv.imread(path, backend='cv2')
    except cv2.error:  # an empty file, or too many pixels
        return None


def read_frames(path: Path) -> Iterator[Tuple[int, np.ndarray]]:
    """Number, from 0, and picture of each frame of a video."""
    capture = cv2.VideoCapture(str(path))
    for number in itertools.count():
        is_there, frame = capture.read()
        if not is_there:
            return
        yield number, frame
