"""Which checkpoints a training leaves in its work folder: the last ones, and the best one by the metric of its task."""
import pytest
import torch
from mmengine import Config
from mmengine.evaluator import BaseMetric

import hybrid_mm

CONFIGS = {'coco/bbox_mAP': 'maskrcnn_transcnn_s.py', 'mIoU': 'upernet_transcnn_s.py', 'accuracy/top1': 'imagenet_transcnn_s.py'}
VALUES = [1, 5, 2, 4, 3, 2, 1]  # the second validation is the best


class Rising(BaseMetric):
    """Gives the values one after the other, behind another metric."""
    default_prefix = None

    def __init__(self, name):
        super().__init__()
        self.name, self.values = name, iter(VALUES)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'aAcc': 1., self.name: next(self.values)}


@pytest.fixture
def train(make_runner, tmp_path):
    """Train as a config says, but for the length; names of the checkpoints that are left."""

    def run(config, metric, length=7, **options):
        hook = dict(Config.fromfile(hybrid_mm.config_path(config)).default_hooks.checkpoint)
        train_cfg = (dict(by_epoch=True, max_epochs=length, val_interval=1) if hook.get('by_epoch', True) else
                     dict(by_epoch=False, max_iters=4 * length, val_interval=4))
        hook['interval'] = train_cfg['val_interval']
        hooks = dict(checkpoint=hook)
        make_runner(train_cfg, validate=True, default_hooks=hooks, val_evaluator=[Rising(metric)], **options).train()
        return {path.name for path in (tmp_path / 'work').glob('*.pth')}

    return run


@pytest.mark.parametrize('metric', CONFIGS)
def test_last_three_checkpoints_and_the_best_one_are_left(train, metric):
    last = {f'iter_{4 * i}.pth' for i in (5, 6, 7)} if metric == 'mIoU' else {f'epoch_{i}.pth' for i in (5, 6, 7)}
    best = f'best_{metric.replace("/", "_")}_{"iter_8" if metric == "mIoU" else "epoch_2"}.pth'

    assert train(CONFIGS[metric], metric) == {*last, best}


def test_an_interrupted_training_goes_on_from_the_last_one_and_removes_what_is_too_old(train, tmp_path):
    assert train('imagenet_transcnn_s.py', 'accuracy/top1', length=4) == {
        'epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth', 'best_accuracy_top1_epoch_2.pth'}
    assert (tmp_path / 'work' / 'last_checkpoint').read_text().endswith('epoch_4.pth')
    left = train('imagenet_transcnn_s.py', 'accuracy/top1', length=6, resume=True)  # its validations give 1 and 5: no better

    assert left == {'epoch_4.pth', 'epoch_5.pth', 'epoch_6.pth', 'best_accuracy_top1_epoch_2.pth'}
    assert torch.load(tmp_path / 'work' / 'epoch_6.pth', weights_only=False)['meta']['epoch'] == 6


def test_an_evaluation_without_the_metric_of_the_config_is_told_and_goes_on(train, capsys):
    assert train('upernet_transcnn_s.py', 'mDice') == {f'iter_{4 * i}.pth' for i in (5, 6, 7)}
    assert 'save_best names mIoU, and the evaluation gives aAcc, mDice; choose from these' in capsys.readouterr().out
