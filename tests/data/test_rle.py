import numpy as np
import pytest
from pycocotools import mask as coco_masks

from hybrid_mm.data.rle import run_lengths


def test_pixels_are_those_that_pycocotools_decodes():
    rng = np.random.default_rng(0)
    masks = [np.asfortranarray(rng.random(rng.integers(1, 70, 2)) < rng.random(), dtype=np.uint8) for _ in range(300)]
    masks += [np.asfortranarray(np.full((1500, 900), value, np.uint8)) for value in (0, 1)]
    rles = [coco_masks.encode(mask)['counts'].decode() for mask in masks]
    pixels, foreground = run_lengths(rles)
    assert pixels.tolist() == [mask.size for mask in masks]
    assert foreground.tolist() == [mask.sum() for mask in masks]


@pytest.mark.parametrize('counts', ['', 'a', '5`', 'ä3', '~1', '\n5', 'oooooooooo0', 'J5', [], [3, -1], [3, 0.5],
                                    [3, True], ['3']])
def test_what_cannot_be_decoded_is_told(counts):
    good = [2, 3]
    pixels, foreground = run_lengths([good, counts, '53', good])
    assert pixels.tolist() == [5, -1, 8, 5] and foreground.tolist() == [3, -1, 3, 3]


def test_no_masks_at_all():
    assert [len(part) for part in run_lengths([])] == [0, 0]
