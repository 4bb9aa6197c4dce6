"""Advice on boxes that are too small to be seen, after the resizes of a pipeline."""
import pytest
from mmengine.config import Config

from hybrid_mm.data import advice
from hybrid_mm.data import faults as kinds
from hybrid_mm.data.parts import Part


def tiny_boxes(pipeline, cfg=None):
    """Advice on a picture of 640x480 pixels with boxes of 2, 3, 6 and 50 pixels."""
    annotations = [dict(id=i, image_id=1, category_id=1, bbox=[9, 9, side, side]) for i, side in enumerate([2, 3, 6, 50], 1)]
    part = Part(['train'], 'train_dataloader.dataset', dict(pipeline=pipeline), 'file.json', coco=dict(
        images=[dict(id=1, file_name='1.jpg', width=640, height=480)], annotations=annotations, categories=[]))
    return [fault.message.split(';')[0] for fault in advice.of_part(part, cfg or Config(dict(model=dict())))
            if fault.kind is kinds.TINY]


def test_boxes_are_counted_after_the_largest_resize_of_a_multi_scale_training(root):
    cfg = Config.fromfile(root / 'configs' / 'transcnn' / 'maskrcnn_transcnn_s_3x.py')
    assert tiny_boxes(cfg.train_dataloader.dataset.pipeline, cfg) == [
        '1 of 4 boxes (25.00%) are smaller than the stride of the first map, 4 pixels, after the resize to (800, 1333)']


@pytest.mark.parametrize('resize, number, text', [
    (dict(type='Resize', scale=(640, 480)), 2, 'after the resize to (640, 480)'),
    (dict(type='mmdet.Resize', scale=480), 2, 'after the resize to (480, 480)'),
    (dict(type='RandomResize', scale=(640, 480), ratio_range=(0.1, 1.5)), 1, 'after the resize to (960, 720)'),
    (dict(type='RandomResize', scale=[(320, 240), (640, 480)]), 2, 'after the resize to (640, 480)'),
    (dict(type='RandomChoiceResize', scales=[240, 320]), 3, 'after the resize to (320, 320)'),
    (dict(type='RandomFlip', prob=0.5), 2, 'without a resize'),
    (dict(type='Resize', scale_factor=2.), 0, ''),
    (dict(type='Resize', scale=(640, 480), keep_ratio=False), 0, ''),
    (dict(type='ResizeShortestEdge', scale=480), 0, ''),
])
def test_each_resize_is_known_or_nothing_is_said(resize, number, text):
    pipeline = [[dict(type='LoadImageFromFile')], dict(type='RandomApply', transforms=[{'keep_ratio': True, **resize}])]
    told = f'{number} of 4 boxes ({number / 4:.2%}) are smaller than the stride of the first map, 4 pixels, {text}'
    assert tiny_boxes(pipeline) == ([told] if number else [])
