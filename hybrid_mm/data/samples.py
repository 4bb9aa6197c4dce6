"""What can be wrong with a picture or a label map, and how a picture lies in its file."""
import os
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional, Tuple, Union

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

_JPEG, _PNG = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'
_JPEG_END, _PNG_END = b'\xff\xd9', b'IEND\xaeB`\x82'
_TAIL = 64  # bytes; some programs append a few after the end mark


def exif_orientation(path: Union[str, Path]) -> int:
    """How a picture has to be turned, from its header alone: 1 to 8, see EXIF 2.3; 5 to 8 swap width and height.

    1, as it lies in the file, where the header says nothing, or cannot be read.
    """
    try:
        with Image.open(path) as image:
            if image.format == 'TIFF':
                value = image.getexif().get(0x0112, 1)
            else:  # not getexif, which decodes a PNG file and takes XMP as well, which OpenCV does not
                exif = Image.Exif()
                exif.load(image.info.get('exif', b''))
                value = exif.get(0x0112, 1)
    except Exception:  # what it raises depends on the format; `picture_fault` says what is wrong
        return 1
    return value if value in range(1, 9) else 1


def picture_fault(path: Union[str, Path]) -> Optional[str]:
    """What is wrong with the file of a picture; None if mmcv, with OpenCV, reads all of it.

    Takes as long as decoding: OpenCV 4 gives a JPEG file that is cut short a grey rest and OpenCV 5 fails on it, so that the end
    mark is looked at besides.

    Returns:
        What follows the name of the file in a sentence, such as ``'is empty'``.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return 'does not exist'
    except IsADirectoryError:
        return 'is a folder'
    except OSError as error:
        return f'cannot be read: {error.strerror}'
    if not data:
        return 'is empty'
    if _ends_early(data):
        return 'is truncated'
    try:
        with silent_opencv():
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # too many pixels, for example
        return f'cannot be decoded: {error.err or error}'
    return None if decoded is not None else _undecodable(path)


def is_truncated(path: Union[str, Path]) -> bool:
    """Whether a JPEG or PNG file lacks its end, from its first and last bytes: some 15 microseconds.

    False for other formats, whose decoders notice, and for what is no file here.
    """
    try:
        with open(path, 'rb', buffering=0) as file:
            head = file.read(len(_PNG))
            if not head.startswith((_JPEG, _PNG)):
                return False
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return not _has_end(head, file.read(_TAIL)) and _ends_early(Path(path).read_bytes())
    except OSError:
        return False


def label_map_fault(labels: np.ndarray, shape: Tuple[int, int], num_classes: int, reduce_zero_label: bool,
                    ignore_index: int = 255) -> Optional[str]:
    """What is wrong with a label map, as its file holds it.

    Args:
        labels: the decoded file.
        shape: height and width of the picture.
        num_classes: of the data set.
        reduce_zero_label: whether the data set takes 0 as unlabelled and 1 as its first class.
        ignore_index: the value that is no class.

    Returns:
        What follows the name of the file in a sentence; None if nothing is wrong.
    """
    if labels.ndim != 2:
        return (f'has {labels.shape[2]} channels, as pictures in colour have; a label map has one, which holds the number of the '
                'class of each pixel')
    if labels.dtype.kind not in 'uib':
        return f'holds numbers of type {labels.dtype}; the numbers of classes are whole ones'
    if labels.shape != tuple(shape):
        return f'has {sides(labels.shape)} pixels, and its picture has {sides(shape)}'
    last = num_classes if reduce_zero_label else num_classes - 1
    wrong = labels > last
    if labels.dtype.kind == 'i':
        wrong |= labels < 0
    wrong &= labels != ignore_index
    if not wrong.any():
        return None
    values = np.unique(labels[wrong])
    named = ', '.join(map(str, values[:5])) + (f' and {len(values) - 5} more values' if len(values) > 5 else '')
    fault = (f'holds {named}, in {np.count_nonzero(wrong)} pixels; allowed with {num_classes} classes and '
             f'reduce_zero_label={reduce_zero_label} are 0 to {last}, and {ignore_index} for none')
    if not reduce_zero_label and values.tolist() == [num_classes]:
        fault += '; if 0 is no class and 1 the first, write reduce_zero_label=True into the data set of the config'
    return fault


def sides(shape: Tuple[int, ...]) -> str:
    """Width and height, in words, of an array of height and width."""
    return f'{shape[1]}x{shape[0]} (width x height)'


@contextmanager
def silent_opencv() -> Iterator[None]:
    """Keep OpenCV's own lines about files that it cannot read from stderr; the caller finds better words."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _has_end(head: bytes, tail: bytes) -> bool:
    return (_JPEG_END if head.startswith(_JPEG) else _PNG_END) in tail


def _ends_early(data: bytes) -> bool:
    """Whether a JPEG or PNG file lacks its end mark, behind which other things may lie, such as a second picture."""
    if data.startswith(_PNG):
        return _PNG_END not in data[-_TAIL:] and _PNG_END not in data
    if not data.startswith(_JPEG) or _JPEG_END in data[-_TAIL:]:
        return False
    start = 2  # of the segments before the pixels, among them a small picture with an end mark of its own
    while start + 4 <= len(data) and data[start] == 0xff and data[start + 1] != 0xda:
        start += 2 + int.from_bytes(data[start + 2:start + 4], 'big')
    return data.find(_JPEG_END, start) < 0


def _undecodable(path: Path) -> str:
    """Why OpenCV decodes nothing of a file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(path) as image:
                image.load()
    except UnidentifiedImageError:
        return 'is damaged' if cv2.haveImageReader(str(path)) else 'is no picture'
    except Exception as error:  # what it raises depends on the format
        return 'is truncated' if 'truncated' in str(error) else f'is damaged: {error}'
    return f'is of a kind that OpenCV does not read: {image.format}, {image.mode}'
