"""COCO's metric where pictures have more than 100 objects, beside MMDetection's own and a reference by hand."""
import json
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import CocoMetric as StockCocoMetric
from mmengine.config import Config
from mmengine.registry import METRICS, DefaultScope

from hybrid_mm.commands.config_names import check_arguments
from hybrid_mm.data.datasets import evaluators_of, is_evaluated
from hybrid_mm.engine.hooks.numerics_guard import _report_empty
from hybrid_mm.errors import SetupError
from hybrid_mm.evaluation import CocoMetric

SIZE = 12  # of the boxes, which stand in a grid of 16 x 16 pixels
CLASSES = ('disc', 'square')


def grid(number):
    """Boxes (x1, y1, x2, y2) beside each other, twenty in a row."""
    corners = np.array([(16 * (i % 20), 16 * (i // 20)) for i in range(number)], dtype=np.float32)
    return np.hstack([corners, corners + SIZE])


def write(path, pictures):
    """A COCO file with pictures of (boxes, labels)."""
    images = [dict(id=i, file_name=f'{i}.png', width=320, height=320) for i in range(len(pictures))]
    annotations = [dict(image_id=i, category_id=int(label) + 1, iscrowd=0, area=SIZE * SIZE,
                        bbox=[*map(float, box[:2]), SIZE, SIZE], segmentation=[[float(box[k]) for k in (0, 1, 2, 1, 2, 3, 0, 3)]])
                   for i, (boxes, labels) in enumerate(pictures) for box, label in zip(boxes, labels)]
    content = dict(images=images, annotations=[dict(annotation, id=i + 1) for i, annotation in enumerate(annotations)],
                   categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)])
    path.write_text(json.dumps(content))
    return str(path)


def evaluate(metric, found):
    """What a metric says of (boxes, scores, labels) in each picture."""
    metric.dataset_meta = dict(classes=CLASSES)
    for i, (boxes, scores, labels) in enumerate(found):
        masks = torch.zeros(len(boxes), 320, 320, dtype=torch.bool)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().astype(int)):
            mask[y1:y2, x1:x2] = True
        pred = dict(bboxes=torch.tensor(boxes), scores=torch.tensor(scores), labels=torch.tensor(labels), masks=masks)
        metric.process({}, [dict(img_id=i, ori_shape=(320, 320), pred_instances=pred)])
    return metric.evaluate(len(found))


def average_precision(hits, objects):
    """By hand: hits in the order of their scores; the mean at 101 recalls of the best precision from there on."""
    found = np.cumsum(hits)
    recall, precision = found / objects, found / np.arange(1, len(hits) + 1)
    return np.mean([max(precision[recall >= level], default=0.) for level in np.linspace(0, 1, 101)])


@pytest.fixture
def crowded(tmp_path):
    """150 objects in one picture, and 180 detections, of which every sixth hits nothing."""
    boxes = grid(180)
    hits = np.arange(180) % 6 != 2
    path = write(tmp_path / 'coco.json', [(boxes[hits], np.zeros(150, dtype=int))])
    return path, [(boxes, np.linspace(.99, .1, 180, dtype=np.float32), np.zeros(180, dtype=int))], hits


def test_every_precision_counts_all_objects_of_a_crowded_picture(crowded):
    path, found, hits = crowded
    by_hand, at_100 = average_precision(hits, 150), average_precision(hits[:100], 150)
    assert at_100 < 0.5 < 0.8 < by_hand

    for numbers in ((1, 10, 500), (500, 1, 10), (100, 300, 1000)):
        ours = evaluate(CocoMetric(path, metric=['bbox', 'segm'], proposal_nums=numbers), found)
        for key in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s'):
            assert ours[f'coco/bbox_{key}'] == ours[f'coco/segm_{key}'] == pytest.approx(by_hand, abs=6e-4), key
        assert ours['coco/bbox_mAP_m'] == -1  # there are none

    stock = evaluate(StockCocoMetric(path), found)
    assert stock['coco/bbox_mAP'] == pytest.approx(at_100, abs=6e-4)
    assert stock['coco/bbox_mAP_50'] == pytest.approx(by_hand, abs=6e-4)
    assert evaluate(StockCocoMetric(path, proposal_nums=(1, 10, 500)), found)['coco/bbox_mAP'] == -1


def test_recall_is_at_each_number_and_the_largest_one_limits_precision(crowded):
    path, found, hits = crowded
    items = ['mAP', 'AR@100', 'AR@300', 'AR@1000', 'AR_s@1000']
    ours = evaluate(CocoMetric(path, proposal_nums=(1, 12, 60), metric_items=items), found)
    assert ours['coco/bbox_mAP'] == pytest.approx(average_precision(hits[:60], 150), abs=6e-4)
    assert [ours[f'coco/bbox_{name}'] for name in items[1:]] == pytest.approx([1 / 150, 10 / 150, 50 / 150, 50 / 150], abs=6e-4)


@pytest.mark.parametrize('options', [
    dict(metric=['bbox', 'segm'], classwise=True),
    dict(metric='proposal'),
    dict(metric_items=['mAP', 'mAP_75', 'AR@100', 'AR@1000', 'AR_s@1000', 'AR_l@1000'], iou_thrs=np.array([.5, .6, .75])),
    dict(use_mp_eval=True),
])
def test_it_says_what_mmdetection_says_where_no_picture_has_more_than_100_detections(options, tmp_path):
    rng = np.random.default_rng(0)
    pictures, found = [], []
    for number in (3, 100, 0, 40):
        boxes, labels = grid(number), rng.integers(0, 2, number)
        pictures.append((boxes, labels))
        noise = rng.normal(0, 1.5, boxes.shape).astype(np.float32)
        found.append((boxes + noise, rng.random(number, dtype=np.float32), np.where(rng.random(number) < .8, labels, 1 - labels)))
    path = write(tmp_path / 'coco.json', pictures)
    ours, stock = (evaluate(kind(path, **options), found) for kind in (CocoMetric, StockCocoMetric))
    assert ours == pytest.approx(stock, nan_ok=True) and list(ours) == list(stock)
    assert any(0 < value < 1 for value in ours.values())


def test_mmdetections_own_metric_stays_as_it_is(crowded):
    path, found, _ = crowded
    before = evaluate(StockCocoMetric(path), found)
    evaluate(CocoMetric(path), found)
    assert evaluate(StockCocoMetric(path), found) == before


@pytest.mark.parametrize('numbers', [(100, ), (1, 10, 100, 500), (0, 10, 500), (1, 10, '500')])
def test_numbers_that_cannot_work_are_named(numbers):
    with pytest.raises(SetupError, match='^proposal_nums=.* of hybrid_mm.CocoMetric is not allowed; give three whole numbers'):
        CocoMetric(proposal_nums=numbers)


def test_a_config_names_it_and_checks_of_data_and_numbers_know_it(tmp_path):
    path = write(tmp_path / 'coco.json', [(grid(1), [0])])
    cfg = Config(dict(default_scope='mmdet', val_evaluator=dict(
        type='hybrid_mm.CocoMetric', ann_file=path, metric=['bbox', 'segm'], proposal_nums=(1, 10, 500), format_only=False)))
    check_arguments(cfg)
    assert evaluators_of(cfg, 'val') == [cfg.val_evaluator] and is_evaluated(cfg, 'val', 'segm')
    with DefaultScope.overwrite_default_scope('mmdet'):
        metric = METRICS.build(cfg.val_evaluator)
    assert isinstance(metric, CocoMetric) and metric.proposal_nums == [1, 10, 500] and metric.prefix == 'coco'

    cfg.val_evaluator.proposal_num = 3
    with pytest.raises(SetupError, match='val_evaluator.proposal_num in the config is unknown .* nearest is proposal_nums'):
        check_arguments(cfg)

    metrics: dict = {}  # as where nothing was found
    _report_empty(mock.Mock(), SimpleNamespace(evaluator=SimpleNamespace(metrics=[metric])), metrics)
    assert metrics['coco/bbox_mAP'] == metrics['coco/segm_mAP_50'] == 0


def test_without_mmdetection_there_is_none_and_nothing_breaks(run_python):
    done = run_python('''
        import sys
        sys.modules['mmdet'] = None
        import importlib.util
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *args: None if name == 'mmdet' else real(name, *args)
        import hybrid_mm.evaluation
        from hybrid_mm.registry import METRICS
        print(METRICS.get('hybrid_mm.CocoMetric'), hybrid_mm.evaluation.__all__)
    ''')
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == 'None []', done.stderr
