import io
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from hybrid_mm.data.samples import exif_orientation, is_truncated, label_map_fault, picture_fault

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
KINDS = dict(jpg=('.jpg', []), progressive=('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]), png=('.png', []), bmp=('.bmp', []),
             webp=('.webp', []), tif=('.tif', []))


def turned(orientation, name='JPEG'):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, name, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize('kind', KINDS)
def test_a_whole_picture_has_no_fault_and_each_cut_shows(tmp_path, kind):
    suffix, options = KINDS[kind]
    data = cv2.imencode(suffix, PICTURE, options)[1].tobytes()
    path = tmp_path / f'picture{suffix}'
    path.write_bytes(data)
    assert picture_fault(path) is None and not is_truncated(path)
    path.write_bytes(data + bytes(100) + data[:40])  # what cameras append is no fault
    assert picture_fault(path) is None and not is_truncated(path)
    for share in (0.02, 0.3, 0.6, 0.9, 0.97):
        path.write_bytes(data[:int(len(data) * share)])
        assert picture_fault(path) in ('is truncated', 'is damaged', 'is damaged: could not create decoder object'), share
        assert is_truncated(path) == (suffix in ('.jpg', '.png')), share
    path.write_bytes(data[:-1])
    assert is_truncated(path) == (suffix in ('.jpg', '.png'))


def test_a_cut_behind_the_small_picture_in_the_header_shows(tmp_path):
    exif = turned(6)
    thumbnail = cv2.imencode('.jpg', PICTURE[:8, :8])[1].tobytes()
    segment = b'\xff\xed' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    path = tmp_path / 'picture.jpg'
    for data in (exif[:2] + segment + exif[2:-2], exif[:2] + segment[:-4]):
        path.write_bytes(data)
        assert is_truncated(path) and picture_fault(path) == 'is truncated'
    path.write_bytes(exif[:2] + segment + exif[2:] + bytes(200))
    assert not is_truncated(path) and picture_fault(path) is None


def test_what_is_no_picture_says_so(tmp_path):
    path = tmp_path / 'picture.jpg'
    assert picture_fault(path) == 'does not exist' and not is_truncated(path)
    assert picture_fault(tmp_path) == 'is a folder'
    path.write_bytes(b'')
    assert picture_fault(path) == 'is empty'
    path.write_text('<html>404</html>')
    assert picture_fault(path) == 'is no picture' and exif_orientation(path) == 1


@pytest.mark.parametrize('name', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_the_orientation_is_that_of_the_header(tmp_path, name):
    path = tmp_path / 'picture'
    for orientation in (1, 3, 6, 8):
        path.write_bytes(turned(orientation, name))
        assert exif_orientation(path) == orientation
    path.write_bytes(turned(9, name))
    assert exif_orientation(path) == 1
    Image.fromarray(PICTURE).save(path, name)
    assert exif_orientation(path) == 1


def test_a_label_map_with_classes_and_unlabelled_pixels_has_no_fault():
    labels = np.array([[0, 1, 255], [2, 3, 7]])
    assert label_map_fault(labels.astype(np.uint8), (2, 3), 8, False) is None
    assert label_map_fault(labels.astype(np.int32), (2, 3), 7, True) is None
    assert label_map_fault(labels == 1, (2, 3), 2, False) is None


@pytest.mark.parametrize('labels, options, fault', [
    (np.zeros((2, 3, 3), np.uint8), {}, 'has 3 channels, as pictures in colour have'),
    (np.zeros((2, 3), np.float32), {}, 'holds numbers of type float32'),
    (np.zeros((3, 2), np.uint8), {}, r'has 2x3 \(width x height\) pixels, and its picture has 3x2 \(width x height\)$'),
    (np.array([[0, 9, 9], [8, 254, 0]], np.uint8), {},
     'holds 8, 9, 254, in 4 pixels; allowed with 8 classes and reduce_zero_label=False are 0 to 7, and 255 for none$'),
    (np.array([[0, 8, 1], [8, 255, 0]], np.uint8), {},
     'holds 8, in 2 pixels; .*write reduce_zero_label=True into the data set of the config$'),
    (np.array([[0, 8, 1], [9, 255, 0]], np.uint8), dict(reduce_zero_label=True),
     'holds 9, in 1 pixels; .* reduce_zero_label=True are 0 to 8, and 255 for none$'),
    (np.array([[0, 300, 1], [-1, 255, 0]], np.int16), {}, 'holds -1, 300, in 2 pixels'),
    (np.array([range(10, 20)], np.uint8), dict(shape=(1, 10)), 'holds 10, 11, 12, 13, 14 and 5 more values, in 10 pixels'),
])
def test_a_fault_of_a_label_map_names_value_and_what_is_allowed(labels, options, fault):
    options = {**dict(shape=(2, 3), num_classes=8, reduce_zero_label=False), **options}
    assert re.search(fault, label_map_fault(labels, **options))
