"""Data sets of the libraries with one faulty sample each."""
import json
import re
import shutil

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from mmseg.datasets import BaseSegDataset
from PIL import Image

from hybrid_mm.data.guarded_pipeline import GuardedPipeline, guard
from hybrid_mm.data.tally import SampleError, Tally

CLASSES = ('disc', 'triangle', 'striped square', 'checked diamond')


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the shapes, to break."""
    return shutil.copytree(shapes, tmp_path / 'shapes')


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmengine'):
        yield


def detection(folder, between=(), load=(), **options):
    pipeline = [dict(type='LoadImageFromFile', **dict(load)), *between,
                dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True), dict(type='mmdet.PackDetInputs')]
    coco = folder / 'coco'
    return CocoDataset(ann_file=str(coco / 'annotations/instances_train2017.json'), data_prefix=dict(img=str(coco / 'train2017')),
                       metainfo=dict(classes=CLASSES), pipeline=pipeline, **options)


def segmentation(folder, between=(), pipeline=None, **options):
    pipeline = pipeline or [dict(type='LoadImageFromFile'), *between, dict(type='mmseg.LoadAnnotations'),
                            dict(type='mmseg.PackSegInputs')]
    options = {'metainfo': dict(classes=('background', *CLASSES)), 'reduce_zero_label': True, **options}
    return BaseSegDataset(data_root=str(folder / 'ade/ADEChallengeData2016'), pipeline=pipeline,
                          data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'), **options)


def first(dataset, key):
    return dataset.get_data_info(0)[key]


def guarded(dataset, **options):
    guard(dataset, 'train_dataloader.dataset', **options)
    return dataset


def refusal(dataset, **options):
    with pytest.raises(SampleError) as raised:
        guarded(dataset, **options)[0]
    assert '\n' not in str(raised.value)
    return str(raised.value)


def change_annotations(folder, change):
    path = folder / 'coco/annotations/instances_train2017.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def turn(path, orientation, size=(60, 40), **options):
    """A picture of this width and height in its file, with an EXIF orientation and one red corner."""
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[:5, :5, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(path, 'JPEG', exif=exif, quality=95)


def labels_of(item):
    sample = item['data_samples']
    return torch.from_numpy(sample.gt_instances.masks.masks) if 'gt_instances' in sample else sample.gt_sem_seg.data


@pytest.mark.parametrize('build', [detection, segmentation])
def test_whole_data_come_out_as_without_the_guard(shapes, build):
    plain, looked_at = build(shapes), guarded(build(shapes))
    assert isinstance(looked_at.pipeline, GuardedPipeline)
    for expected, found in zip(plain, looked_at):
        assert torch.equal(expected['inputs'], found['inputs'])
        assert torch.equal(labels_of(expected), labels_of(found))
    pipeline = looked_at.pipeline
    assert guarded(looked_at).pipeline is pipeline  # once


@pytest.mark.parametrize('key', ['img_path', 'seg_map_path'])
@pytest.mark.parametrize('spoil, fault', [
    (lambda path: path.unlink(), 'does not exist'),
    (lambda path: path.write_bytes(b''), 'is empty'),
    (lambda path: path.write_bytes(path.read_bytes()[:-20]), 'is truncated'),
    (lambda path: path.write_text('<html>'), 'is no picture'),
])
def test_a_file_that_cannot_be_read_is_named(data, key, spoil, fault):
    dataset = segmentation(data)
    path = type(data)(first(dataset, key))
    spoil(path)
    whose = '' if key == 'img_path' else f', the label map of {first(dataset, "img_path")},'
    assert refusal(dataset) == f'{path}{whose} {fault}; mend it or take it out of the data'


def test_a_picture_of_a_coco_file_is_named_with_its_id(data):
    dataset = detection(data)
    type(data)(first(dataset, 'img_path')).write_bytes(b'')
    assert refusal(dataset, tally=Tally(0, 0.5)) == (
        f'{first(dataset, "img_path")} (image id {first(dataset, "img_id")}) is empty; mend it or take it out of the data, or '
        "train without such samples by samples='skip' of hybrid_mm.DataGuardHook, in our configs default_hooks.data_guard")


def test_a_truncated_picture_is_refused_where_the_decoder_gives_it_a_grey_rest(data, monkeypatch):
    dataset = detection(data)
    path = type(data)(first(dataset, 'img_path'))
    path.write_bytes(path.read_bytes()[:-20])
    grey = np.full((64, 64, 3), 128, np.uint8)
    monkeypatch.setattr(mmcv, 'imfrombytes', lambda *args, **options: grey)  # as OpenCV 4 does
    assert 'is truncated;' in refusal(dataset)


@pytest.mark.parametrize('say, shape', [((60, 40), (40, 60)), ((40, 60), (60, 40))])
@pytest.mark.parametrize('color_type', ['color', 'color_ignore_orientation'])
def test_a_picture_is_turned_as_the_sizes_in_the_annotation_file_say(data, say, shape, color_type):
    def resize(content):
        content['images'][0].update(width=say[0], height=say[1])

    change_annotations(data, resize)
    dataset = guarded(detection(data, load=dict(color_type=color_type)))
    turn(first(dataset, 'img_path'), 6)
    item = dataset[0]
    assert item['inputs'].shape[1:] == item['data_samples'].ori_shape == item['data_samples'].gt_instances.masks.masks.shape[1:] \
        == shape
    red = item['inputs'][2] > 128
    assert red[0, 0] if shape == (40, 60) else red[0, -1]  # the top of the file is the right of the turned picture


def test_sizes_that_agree_with_neither_way_are_a_fault(data):
    dataset = detection(data)
    path = first(dataset, 'img_path')
    turn(path, 6)
    message = refusal(dataset)
    assert message.startswith(f'{path} (image id {first(dataset, "img_id")}) has 40x60 (width x height) pixels, and the ')
    assert 'the annotation file says 64x64 (width x height); mend' in message
    change_annotations(data, lambda content: content['images'][0].update(width=40, height=60))
    turn(path, 1)
    assert 'says 40x60 (width x height); width and height are swapped there; mend' in refusal(detection(data))


@pytest.mark.parametrize('shape', [(40, 60), (60, 40)])
@pytest.mark.parametrize('between', [[], [dict(type='mmcv.Resize', scale=(30, 30))]])
def test_a_picture_is_turned_as_its_label_map(data, shape, between):
    tally = Tally(0, 0)
    dataset = guarded(segmentation(data, between), tally=tally)
    turn(first(dataset, 'img_path'), 8)
    cv2.imwrite(first(dataset, 'seg_map_path'), np.ones(shape, np.uint8))
    sample = dataset[0]['data_samples']
    assert sample.ori_shape == sample.gt_sem_seg.shape == shape
    assert tally.counts().tolist() == [1, 0, shape == (40, 60)]
    cv2.imwrite(first(dataset, 'seg_map_path'), np.ones((41, 60), np.uint8))
    assert 'has 60x41 (width x height) pixels, and its picture has 40x60 (width x height);' in refusal(dataset)


@pytest.mark.parametrize('labels, options, fault', [
    (np.full((64, 64), 6, np.uint8), dict(flips=True), 'holds 6, in 4096 pixels; allowed with 5 classes and '),
    (np.full((64, 64), 5, np.uint8), dict(reduce_zero_label=False), 'write reduce_zero_label=True into the data set of'),
    (np.full((64, 64), 256, np.uint16), {}, 'holds 256, in 4096 pixels'),
    (np.full((64, 64), 7, np.uint8), dict(classes=('disc', 'background')), 'holds 7, in 4096 pixels; allowed with 5 classes'),
    (np.ones((64, 64, 3), np.uint8), {}, 'has 3 channels, as pictures in colour have'),
    (np.ones((64, 32), np.uint8), {}, 'has 32x64 (width x height) pixels, and its picture has 64x64 (width x height)'),
])
def test_a_fault_of_a_label_map_names_file_and_value(data, labels, options, fault):
    options, pipeline = dict(options), None
    if options.pop('flips', False):
        pipeline = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[
            [dict(type='mmcv.RandomFlip', prob=0.), dict(type='mmcv.RandomFlip', prob=1.)], [dict(type='mmseg.LoadAnnotations')],
            [dict(type='mmseg.PackSegInputs')]])]

    class Shapes(BaseSegDataset):
        METAINFO = dict(classes=('background', *CLASSES))

    if 'classes' in options:
        dataset = Shapes(data_root=str(data / 'ade/ADEChallengeData2016'), metainfo=options, reduce_zero_label=False,
                         data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'),
                         pipeline=pipeline or segmentation(data).pipeline.transforms)
    else:
        dataset = segmentation(data, pipeline=pipeline, **options)
    path = first(dataset, 'seg_map_path')
    cv2.imwrite(path, labels)
    message = refusal(dataset)
    assert message.startswith(f'{path}, the label map of {first(dataset, "img_path")}, ') and fault in message


def test_a_number_that_a_head_ignores_is_no_fault(data):
    dataset = segmentation(data, reduce_zero_label=False)
    cv2.imwrite(first(dataset, 'seg_map_path'), np.full((64, 64), 200, np.uint8))
    assert 'holds 200' in refusal(dataset)
    dataset = guarded(segmentation(data, reduce_zero_label=False), ignored=[200])
    assert dataset[0]['data_samples'].gt_sem_seg.data.unique() == 200
    cv2.imwrite(first(dataset, 'seg_map_path'), np.full((64, 64), 9, np.uint8))
    assert 'holds 9, in' in refusal(dataset, ignored=[200])


@pytest.mark.parametrize('segmentation, fault', [
    ([], 'has no segmentation; mend'),
    (dict(size=[30, 20], counts=[0, 600]), r'has a segmentation of 20x30 \(.*\) pixels, and the picture has 64x64 \('),
    ([list('polygons')], None),
])
def test_a_segmentation_that_cannot_be_loaded_is_named_with_its_box(data, segmentation, fault):
    change_annotations(data, lambda content: [a.update(segmentation=segmentation) for a in content['annotations']])
    dataset = detection(data)
    message = refusal(dataset)
    assert message.startswith(f'{first(dataset, "img_path")} (image id {first(dataset, "img_id")}): the ') if fault else \
        message.startswith(f'LoadAnnotations fails on {first(dataset, "img_path")} (image id {first(dataset, "img_id")}): ')
    assert re.search(rf'the ({"|".join(CLASSES)}) with the box \[.*\] \(x1, y1, x2, y2\) {fault}', message) or not fault


def test_the_fault_of_another_transform_keeps_its_kind_and_the_log_names_the_file(shapes, caplog, monkeypatch):
    dataset = guarded(detection(shapes, [dict(type='mmcv.Resize', scale=(0, 0))]))
    logged = []
    monkeypatch.setattr('hybrid_mm.data.guarded_pipeline.print_log', lambda text, **options: logged.append(text))
    with pytest.raises(Exception) as raised:  # noqa: PT011  OpenCV's own
        dataset[0]
    assert not isinstance(raised.value, SampleError)
    assert logged == [f'Resize fails on {first(dataset, "img_path")} (image id {first(dataset, "img_id")})']


@pytest.mark.parametrize('workers, context', [
    (0, None), (2, 'fork'), pytest.param(2, 'spawn', marks=pytest.mark.exhaustive)])
def test_skipped_samples_are_replaced_and_counted_in_all_processes(data, workers, context):
    tally = Tally(workers, 0.5)
    dataset = guarded(segmentation(data), tally=tally, skip=True)
    broken = [dataset.get_data_info(i)['img_path'] for i in (1, 6)]
    for path in broken:
        open(path, 'w').close()
    loader = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=workers, collate_fn=pseudo_collate,
                                         multiprocessing_context=context)
    for _ in range(2 if context != 'spawn' else 1):
        paths = [sample.img_path for batch in loader for sample in batch['data_samples']]
        assert len(paths) == 8 and not set(paths) & set(broken)
    seen, skipped, as_stored = tally.counts().tolist()
    assert skipped >= (4 if context != 'spawn' else 2) and seen == skipped + len(paths) * (2 if context != 'spawn' else 1)
    assert sorted(tally.texts()) == sorted(f'{path} is empty' for path in broken)


@pytest.mark.parametrize('workers', [0, 1])
def test_data_without_pictures_stop_inside_of_the_epoch_with_one_sentence(data, workers):
    dataset = guarded(segmentation(data), tally=Tally(workers, 0.1), skip=True)
    for path in (data / 'ade/ADEChallengeData2016/images/training').iterdir():
        path.unlink()
    batches = iter(torch.utils.data.DataLoader(dataset, num_workers=workers, collate_fn=pseudo_collate))
    with pytest.raises(SampleError, match=r'^20 of 20 samples had to be skipped, more than max_share=0.1 of .*, such as '
                       r'this one: /.*\.(jpg|png) does not exist; `python tools/datasets/check.py CONFIG` lists'):
        next(batches)
    if workers:
        batches._shutdown_workers()


def test_test_mode_stops_where_training_would_skip(data):
    dataset = segmentation(data, test_mode=True)
    open(first(dataset, 'img_path'), 'w').close()
    assert 'is empty' in refusal(dataset, tally=Tally(0, 1), skip=True)
