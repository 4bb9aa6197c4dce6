"""`--resume` with another schedule than before, by the tools."""
import json
import re

import pytest


@pytest.fixture(scope='module')
def train(run_tool, tiny):
    """Train a detector for some epochs of two iterations with a cosine schedule as long; return rates and what was printed."""

    def train(work_dir, epochs, *options, check=True, **more):
        result = run_tool('train.py', tiny('detector'), '--work-dir', work_dir, *options, '--cfg-options',
                          f'train_cfg.max_epochs={epochs}',
                          'default_hooks.logger.interval=1', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None',
                          *more.get('settings', ()), check=check)
        logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
        lines = [json.loads(line) for line in logs[-1].read_text().splitlines()] if logs else []
        return {line['step']: line['lr'] for line in lines if 'lr' in line}, result

    return train


@pytest.fixture(scope='module')
def half(train, tmp_path_factory):
    """The checkpoint of a training of two epochs."""
    work_dir = tmp_path_factory.mktemp('half')
    train(work_dir, 2)
    return work_dir / 'epoch_2.pth'


def test_a_longer_schedule_is_entered_where_training_is(train, half, tmp_path):
    whole, _ = train(tmp_path / 'whole', 4)
    resumed, result = train(tmp_path / 'work', 4, '--resume', half)
    assert resumed == {step: whole[step] for step in (5, 6, 7, 8)}
    said = re.search(r'The config is not that of the checkpoint: (.*)\. At epoch 2, iteration 4 the schedule of the config is '
                     r'entered with the learning rate (\S+)\.', result.stdout)
    assert 'CosineAnnealingLR.end 4 -> 8' in said[1] and float(said[2]) == pytest.approx(whole[5], rel=1e-5)


@pytest.mark.parametrize('epochs, settings, message', [
    (1, [], 'Error: train_cfg.max_epochs=1, and the checkpoint to resume from has 2 behind it; set train_cfg.max_epochs above'),
    (4, ['optim_wrapper.constructor=hybrid_mm.LayerDecayOptimizerConstructor', 'optim_wrapper.paramwise_cfg.decay_rate=0.7'],
     'Error: the optimizer of the checkpoint to resume from has'),
])
def test_what_cannot_go_on_ends_with_one_sentence(train, half, tmp_path, epochs, settings, message):
    _, result = train(tmp_path, epochs, '--resume', half, check=False, settings=settings)
    assert result.returncode == 1 and result.stderr.splitlines()[-1].startswith(message), result.stderr[-2000:]
    assert 'Traceback' not in result.stderr  # libraries may warn in front of the sentence
