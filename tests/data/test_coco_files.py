"""Generated annotation files: what is put in is found, and a cleaned copy is clean and loads."""
import copy
import math

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_masks

from hybrid_mm.data import faults as kinds
from hybrid_mm.data.coco_faults import find_faults, read_coco
from hybrid_mm.data.coco_fix import mend, write_coco

QUICK = settings(max_examples=60, deadline=None, derandomize=True, database=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def masks(draw, height, width):
    """A rectangle as polygon, RLE of numbers or compressed RLE."""
    left, top = draw(st.integers(0, width - 2)), draw(st.integers(0, height - 2))
    right, bottom = draw(st.integers(left + 2, width)), draw(st.integers(top + 2, height))
    box = [left, top, right - left, bottom - top]
    form = draw(st.sampled_from(['polygon', 'numbers', 'string']))
    if form == 'polygon':
        return box, [[left, top, right, top, right, bottom + 0.5, left, bottom]]
    mask = np.zeros((height, width), np.uint8, order='F')
    mask[top:bottom, left:right] = 1
    if form == 'string':
        rle = coco_masks.encode(mask)
        return box, dict(size=rle['size'], counts=rle['counts'].decode())
    pixels = mask.ravel(order='F')
    runs = np.diff([0, *(np.flatnonzero(np.diff(pixels)) + 1), pixels.size]).tolist()
    return box, dict(size=[height, width], counts=[0, *runs] if pixels[0] else runs)


@st.composite
def files(draw):
    """A whole annotation file with two annotations or more."""
    images = [dict(id=i + 3, file_name=f'{i}.jpg', width=draw(st.integers(8, 50)), height=draw(st.integers(8, 50)))
              for i in range(draw(st.integers(1, 4)))]
    annotations = []
    for i in range(draw(st.integers(2, 6))):
        image = draw(st.sampled_from(images))
        box, mask = draw(masks(image['height'], image['width']))
        annotations.append(dict(id=i + 1, image_id=image['id'], category_id=draw(st.sampled_from([2, 7])), bbox=box,
                                area=box[2] * box[3], iscrowd=draw(st.integers(0, 1)), segmentation=mask))
    return dict(info={}, images=images, annotations=annotations, categories=[dict(id=7, name='a'), dict(id=2, name='b')])


def put(**values):
    return lambda content, annotation, image: annotation.update(values)


def drop(key):
    return lambda content, annotation, image: annotation.pop(key)


def put_image(**values):
    return lambda content, annotation, image: image.update(values)


FAULTS = {
    kinds.ZERO_BOX: put(bbox=[1, 1, 0, 4]),
    kinds.NEGATIVE: put(bbox=[4, 4, -2, 3]),
    kinds.OUTSIDE: put(bbox=[300, 1, 5, 5]),
    kinds.THIN: put(bbox=[1, 1, 0.25, 4], segmentation=[[1, 1, 1, 5, 1.25, 5]]),
    kinds.BEYOND: lambda content, annotation, image: annotation.update(
        bbox=[1, 1, image['width'] + 9, 5], segmentation=[[1, 1, 5, 1, 5, 5]]),
    kinds.NO_BOX: put(bbox=[1, 1, math.nan, 4]),
    kinds.NO_POINTS: put(segmentation=[[1, 1, 5, 5, 5, 1, 1]]),
    kinds.FEW_POINTS: put(segmentation=[[1, 1, 5, 5]]),
    kinds.NO_MASK: put(segmentation=[]),
    kinds.OTHER_FORM: put(segmentation=[1, 1, 5, 5, 5, 1]),
    kinds.POLYGON_BEYOND: lambda content, annotation, image: annotation.update(
        bbox=[1, 1, 4, 5], segmentation=[[1, 1, image['width'] + 9, 1, 5, 6]]),
    kinds.APART: put(bbox=[1, 1, 2, 2], segmentation=[[5, 5, 7, 5, 7, 7]]),
    kinds.RLE_SIZE: put(segmentation=dict(size=[99, 98], counts=[99 * 98])),
    kinds.RLE_DAMAGED: lambda content, annotation, image: annotation.update(
        segmentation=dict(size=[image['height'], image['width']], counts='a')),
    kinds.NO_AREA: drop('area'),
    kinds.ZERO_AREA: put(area=0),
    kinds.NO_CROWD: drop('iscrowd'),
    kinds.NO_CATEGORY: put(category_id=99),
    kinds.NO_IMAGE: put(image_id=99),
    kinds.NO_ID: drop('id'),
    kinds.ID_TWICE: lambda content, annotation, image: annotation.update(
        id=next(other['id'] for other in content['annotations'] if other is not annotation)),
    kinds.ID_ZERO: put(id=0),
    kinds.IMAGE_TWICE: lambda content, annotation, image: content['images'].append(dict(image, file_name='other.jpg')),
    kinds.FILE_TWICE: lambda content, annotation, image: content['images'].append(dict(image, id=1000)),
    kinds.NAME_TWICE: lambda content, annotation, image: content['categories'].append(dict(id=11, name='b')),
    kinds.CATEGORY_TWICE: lambda content, annotation, image: content['categories'].append(dict(id=7, name='c')),
    kinds.CATEGORY_KEYS: lambda content, annotation, image: content['categories'].append(dict(id=12)),
    kinds.NO_OBJECT: lambda content, annotation, image: content['annotations'].append(3),
}


def severe(found):
    return {fault.kind.name for fault in found}


@QUICK
@given(files())
def test_a_whole_file_has_no_faults_and_stays_as_it_is(content):
    assert find_faults(content, 'f', masks=True, evaluated=True) == []
    mended, changes = mend(content, 'f', masks=True, evaluated=True)
    assert mended == content and changes == []


@QUICK
@given(files(), st.sampled_from(list(FAULTS)), st.integers(0, 5))
def test_what_is_put_in_is_found_with_its_ids_and_nothing_else(content, kind, place):
    before = copy.deepcopy(content)
    annotation = content['annotations'][place % len(content['annotations'])]
    image = next(image for image in content['images'] if image['id'] == annotation['image_id'])
    FAULTS[kind](content, annotation, image)
    found = find_faults(content, 'f.json', masks=True, evaluated=True)
    assert severe(found) == {kind.name}
    fault, = found
    assert fault.file == 'f.json' and fault.message
    if kind not in (kinds.NO_OBJECT, kinds.NAME_TWICE, kinds.CATEGORY_TWICE, kinds.CATEGORY_KEYS):
        expected = 99 if kind is kinds.NO_IMAGE else 1000 if kind is kinds.FILE_TWICE else image['id']
        others = {other['image_id'] for other in content['annotations'] if kind is kinds.ID_TWICE}  # the later of both is named
        assert fault.image_id == expected or fault.image_id in others
    if content['annotations'] != before['annotations'] and kind is not kinds.NO_OBJECT:
        assert fault.annotation_id in (annotation.get('id'), before['annotations'][1]['id'])

    mended, changes = mend(content, 'f.json', masks=True, evaluated=True)
    assert find_faults(mended, 'f.json', masks=True, evaluated=True) == []
    assert kind.name in {change.kind.name for change in changes}
    if kind is not kinds.ID_TWICE:
        others = [other for other in content['annotations'] if other is not annotation and other != 3]
        assert [other for other in mended['annotations'] if other in others] == others


def test_an_rle_of_another_size_is_told_with_its_size():
    image = dict(id=1, file_name='1.jpg', width=40, height=30)
    annotation = dict(id=1, image_id=1, category_id=1, bbox=[1, 1, 4, 4], area=16, iscrowd=1,
                      segmentation=dict(counts=[30] * 40, size=[40, 30]))
    fault, = find_faults(dict(images=[image], annotations=[annotation], categories=[dict(id=1, name='a')]), 'f', masks=True)
    assert fault.kind is kinds.RLE_SIZE
    assert fault.message.startswith("segmentation={'size': [40, 30], 'counts': [30, 30, ")
    assert fault.message.endswith('... in (width, height)=(40, 30)')


values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 60) | st.floats(-60, 60, allow_subnormal=False) |
    st.sampled_from([math.nan, math.inf, -1e308, 1e308, 10**400, 0, 7, '7', 'ä', '']),
    lambda part: st.lists(part, max_size=7) | st.dictionaries(st.sampled_from(['size', 'counts', 'id']), part, max_size=3),
    max_leaves=8)


@QUICK
@given(files(), st.lists(st.tuples(
    st.sampled_from(['images', 'annotations', 'categories']), st.integers(0, 5),
    st.sampled_from(['id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd', 'segmentation', 'file_name', 'width', 'height',
                     'name', None]), values), max_size=6))
def test_any_values_are_mended_into_a_file_that_mmdetection_loads(tmp_path, content, changes):
    from mmdet.datasets import CocoDataset
    for part, place, key, value in changes:
        entry = content[part][place % len(content[part])]
        if key is None:
            content[part][place % len(content[part])] = value
        elif isinstance(entry, dict):
            entry[key] = value
    original = copy.deepcopy(content)
    mended, _ = mend(content, 'f', masks=True, evaluated=True)
    assert repr(content) == repr(original)
    assert find_faults(mended, 'f', masks=True, evaluated=True) == []
    path = tmp_path / 'mended.json'
    write_coco(mended, path)
    read = read_coco(str(path))
    assert find_faults(read, 'f', masks=True, evaluated=True) == []
    if read['images'] and read['annotations'] and read['categories']:
        classes = tuple(category['name'] for category in read['categories'])
        dataset = CocoDataset(ann_file=str(path), metainfo=dict(classes=classes), data_prefix=dict(img=''),
                              serialize_data=False)
        sizes = {image['id']: (image['height'], image['width']) for image in read['images']}
        assert sum(len(entry['instances']) for entry in dataset) == sum(
            not annotation.get('ignore') for annotation in read['annotations'])
        for annotation in read['annotations']:
            mask, size = annotation['segmentation'], sizes[annotation['image_id']]
            if isinstance(mask, list) or isinstance(mask['counts'], list):
                mask = coco_masks.frPyObjects(mask, *size)
            coco_masks.decode(mask)
