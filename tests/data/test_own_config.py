"""Sizes, length and text of a config for a user's own folder: what is chosen follows from the data and the machine."""
from pathlib import Path

import pytest
from mmengine.config import Config

from hybrid_mm import config_path
from hybrid_mm.data.own_config import BASES, NETWORK, Schedule, choose_batch, choose_schedule, class_weights, config_text
from hybrid_mm.data.own_folder import BOXES, MAPS, MASKS, OwnFolder, OwnPart
from hybrid_mm.data.own_sizes import Machine, Measures, choose_sizes, crop_within, machine_here, measure
from hybrid_mm.errors import SetupError

ROOT = Path('/data/mine')
TWO_CORES = Machine(False, 2, 16.)
BOX = Measures(640, 480, True, 94., 28)
SCHEDULE = Schedule(300, 4, 1., 5.)


def folder(task, classes=('a', 'b'), splits=('train', 'val', 'test'), annotations=None, **more):
    parts = {split: OwnPart(ROOT / split, (annotations or ROOT / 'annotations') / (split if task == MAPS else f'{split}.json'),
                            number=100) for split in splits}
    return OwnFolder(ROOT, task, classes, parts, picture_ending='.jpg', map_ending='.png', pixels=(900, 100), **more)


def read(of, measures=BOX, schedule=SCHEDULE, machine=TWO_CORES, lists=None, checkpoint=None, path='config.py'):
    name = BASES[of.task].format(NETWORK, '')
    base = Config.fromfile(config_path(name))
    text = config_text(of, base, name, measures, schedule, machine, 'mine.py', lists or {}, checkpoint)
    assert max(map(len, text.splitlines())) <= 130
    Path(path).write_text(text)
    return Config.fromfile(path)


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def steps(pipeline):
    return {step['type']: step for step in pipeline}


@pytest.mark.parametrize('measures, segmentor, gpu, scale, reason', [
    (BOX, False, False, (384, 288), 'at most 384'),
    (BOX, False, True, (640, 480), 'at most 800'),
    (Measures(256, 256, False, 12.4, 375), False, False, (371, 371), 'those of 12 pixels and more, then have 18'),
    (Measures(640, 480, False, 22.6, 42), False, False, (512, 384), 'those of 23 pixels'),
    (Measures(2000, 1500, False, 10., 5), False, False, (800, 600), '800 pixels are the most'),
    (Measures(200, 200, False, 4., 5), False, False, (400, 400), '2 times'),
    (Measures(480, 360, True), True, False, (480, 360), 'at most 480'),
    (Measures(28, 28, True), True, False, (64, 64), 'needs 64'),
])
def test_small_objects_and_large_machines_get_larger_pictures(measures, segmentor, gpu, scale, reason):
    sizes = choose_sizes(measures, segmentor, gpu)
    assert sizes.scale == pytest.approx(scale, abs=2) and reason in sizes.reason


def test_crop_is_no_larger_than_pictures_that_lie_or_stand():
    assert crop_within((192, 256), (480, 360)) == (192, 256) == crop_within((192, 256), (360, 480))
    assert crop_within((192, 256), (150, 100)) == (96, 128) and crop_within((256, 256), (300, 200)) == (192, 192)


def test_steps_fit_into_the_time_and_passes_have_an_end():
    assert choose_schedule(0.9, 4, 20, 500).steps == 1300
    assert choose_schedule(0.013, 4, 20, 20).steps == 2000 and choose_schedule(0.013, 4, 20, 1000).steps == 75_000
    assert choose_schedule(5., 4, 0.01, 500).steps == 2


def test_little_memory_means_small_batches():
    base = Config.fromfile(config_path(BASES[BOXES].format(NETWORK, '')))
    assert choose_batch(base, TWO_CORES) == base.train_dataloader.batch_size == 4
    assert choose_batch(base, Machine(False, 2, 3.)) == 2 and choose_batch(base, Machine(True, 2, 3.)) == 4
    assert choose_batch(base, Machine(False, 2, None)) == 4
    assert machine_here(False).cores >= 1 and str(Machine(False, 1, None)) == '1 core'


def test_measures_are_those_of_objects_that_are_no_crowd():
    content = dict(
        images=[dict(id=i, width=60, height=40) for i in (1, 2, 3)],
        annotations=[dict(image_id=1, bbox=[0, 0, 20, 5]), dict(image_id=1, bbox=[0, 0, 10, 10], iscrowd=0),
                     dict(image_id=2, bbox=[0, 0, 40, 10]), dict(image_id=2, bbox=[0, 0, 1, 1], iscrowd=1)])
    of = folder(BOXES)
    of.parts['train'] = of.parts['train']._replace(content=content)
    assert measure(of) == Measures(60, 40, True, 10., 2, True)
    of.parts['train'].content['annotations'] = content['annotations'][3:]
    with pytest.raises(SetupError, match='no objects but crowds'):
        measure(of)


def test_boxes_with_a_part_for_testing():
    cfg = read(folder(BOXES))
    roi_head = cfg.model.roi_head
    assert cfg.model.type == 'FasterRCNN' and roi_head.bbox_head.num_classes == 2 and roi_head.mask_head is None
    assert steps(cfg.train_dataloader.dataset.pipeline)['RandomResize'].scale == (384, 288)
    assert steps(cfg.test_dataloader.dataset.pipeline)['Resize'].scale == (384, 288)
    assert [cfg[f'{split}_dataloader'].dataset.ann_file for split in ('train', 'val', 'test')] == [
        f'annotations/{split}.json' for split in ('train', 'val', 'test')]
    assert cfg.test_evaluator.ann_file == '/data/mine/annotations/test.json' and cfg.test_evaluator.classwise
    assert cfg.test_evaluator.proposal_nums == (1, 10, 100) and cfg.model.test_cfg.rcnn.max_per_img == 100
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == 300 and cfg.param_scheduler[0].end == 60


def test_masks_without_a_part_for_testing_many_objects_and_files_elsewhere():
    of = folder(MASKS, ('nucleus', ), ('train', 'val'), Path('/elsewhere/beside'))
    cfg = read(of, Measures(256, 256, False, 12.4, 375, True), machine=Machine(False, 8, 3.), schedule=SCHEDULE._replace(batch=2))
    assert steps(cfg.test_pipeline)['Resize'].scale_factor == 1.45
    base = Config.fromfile(config_path(BASES[MASKS].format(NETWORK, '')))
    wanted = [round(side * steps(base.test_pipeline)['Resize'].scale_factor / 1.45)
              for side in steps(base.train_pipeline)['RandomCrop'].crop_size]
    assert steps(cfg.train_dataloader.dataset.pipeline)['RandomCrop'].crop_size == tuple(wanted)
    assert cfg.val_evaluator == cfg.test_evaluator and cfg.test_evaluator.ann_file == '/elsewhere/beside/val.json'
    assert cfg.test_evaluator.proposal_nums == (1, 10, 500) and cfg.test_evaluator.type == 'hybrid_mm.CocoMetric'
    assert cfg.model.test_cfg.rcnn.max_per_img == 500 and cfg.model.test_cfg.rpn.max_per_img == 1000
    assert cfg.model.rpn_head.anchor_generator.ratios == [0.5, 1.0, 2.0]
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 1
    assert (cfg.train_dataloader.batch_size, cfg.train_dataloader.num_workers) == (2, 2)


def test_many_classes_have_colours():
    cfg = read(folder(BOXES, tuple(f'class {i}' for i in range(200))))
    assert cfg.test_dataloader.dataset.metainfo.palette is None and len(cfg.test_dataloader.dataset.metainfo.classes) == 200


def test_label_maps_that_are_listed_and_resized():
    of = folder(MAPS, splits=('train', 'val'), reduce_zero_label=True)
    cfg = read(of, Measures(2000, 1500, False), lists=dict(train=Path('/elsewhere/train.txt')), checkpoint='start.pth')
    dataset = cfg.train_dataloader.dataset
    assert (dataset.ann_file, dataset.reduce_zero_label, dataset.data_prefix.seg_map_path) == (
        '/elsewhere/train.txt', True, 'annotations/train')
    assert 'ann_file' not in cfg.val_dataloader.dataset and cfg.test_dataloader.dataset.data_prefix.img_path == 'val'
    assert [step.type for step in cfg.test_pipeline][:3] == ['LoadImageFromFile', 'Resize', 'LoadAnnotations']
    assert steps(dataset.pipeline)['RandomResize'].scale == cfg.test_pipeline[1].scale == (480, 360)
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 2
    assert len(dataset.metainfo.classes) == 2 and dataset.metainfo.palette == [] and cfg.load_from == 'start.pth'


def test_rare_classes_count_more_and_a_handful_of_pixels_rules_nothing():
    cfg = read(folder(MAPS))
    assert cfg.model.decode_head.loss_decode.class_weight == cfg.model.auxiliary_head.loss_decode.class_weight == [0.833, 2.5]
    assert class_weights([900, 100]) == pytest.approx([1 / 1.2, 3 / 1.2])  # 0.9 / 1.2 + 0.1 * 3 / 1.2 = 1
    assert class_weights([10**9, 1, 0]) == pytest.approx([1, 10, 1], abs=.001)


def test_pictures_of_one_size_that_fit_stay_as_they_are():
    cfg = read(folder(MAPS), Measures(96, 80, True))
    assert [step.type for step in cfg.test_pipeline] == ['LoadImageFromFile', 'LoadAnnotations', 'PackSegInputs']
    assert tuple(cfg.model.data_preprocessor.size) == steps(cfg.train_pipeline)['RandomCrop'].crop_size == (64, 96)
