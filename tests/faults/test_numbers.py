"""Numbers that are not finite, injected into trainings and evaluations of the tools."""
import json
from pathlib import Path

import pytest
import torch

from hybrid_mm.compat import allow_training_checkpoints

allow_training_checkpoints()

# the second epoch begins with a step of 6e11, and the step behind it has no loss any more
EXPLODING = '''
_base_ = ['{base}']
train_cfg = dict(val_interval=2)
param_scheduler = [dict(type='MultiStepLR', milestones=[1], gamma=1e15)]
'''


@pytest.fixture(scope='module')
def exploded(run_tool, tiny, tmp_path_factory):
    """The work folder of such a training, and what the tool said."""
    work_dir = tmp_path_factory.mktemp('exploded')
    config = work_dir / 'exploding.py'
    config.write_text(EXPLODING.format(base=tiny('detector')))
    return work_dir, run_tool('train.py', config, '--work-dir', work_dir, check=False)


def test_a_loss_that_explodes_ends_the_training_with_one_sentence(exploded):
    work_dir, result = exploded
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith('Error: loss_') and ' not finite at step 4 in epoch 2; ' in message
    for part in ('the first module with a non-finite output is backbone.', 'learning rate 6e+11', 'train2017/0000000000',
                 f'the last checkpoint is {work_dir / "epoch_1.pth"}; ', 'the weights are finite, the largest is '):
        assert part in message
    assert 'Traceback' not in result.stderr
    assert [path.name for path in work_dir.glob('*.pth')] == ['epoch_1.pth']
    assert all(value.isfinite().all() for value in torch.load(work_dir / 'epoch_1.pth')['state_dict'].values())


def test_an_evaluation_that_finds_nothing_says_so_and_gives_a_metric(exploded, run_tool, tiny, tmp_path):
    result = run_tool('test.py', tiny('detector'), exploded[0] / 'epoch_1.pth', '--work-dir', tmp_path,
                      '--cfg-options', 'model.test_cfg.rcnn.score_thr=1.1')
    metrics = json.loads(next(Path(tmp_path).glob('*/*.json')).read_text())
    assert metrics['coco/bbox_mAP'] == metrics['coco/segm_mAP'] == 0
    assert 'Nothing was found in any picture, so that coco/bbox_mAP, ' in result.stdout


def test_a_validation_of_weights_that_are_not_finite_stops(run_tool, tiny, tmp_path):
    """The very last step overflows, and no loss behind it shows it."""
    result = run_tool('train.py', tiny('detector'), '--work-dir', tmp_path, '--cfg-options', 'param_scheduler=[]',
                      'optim_wrapper.optimizer.lr=1e39', 'train_dataloader.batch_size=8', 'train_cfg.max_epochs=1',
                      'default_hooks.checkpoint.interval=2', 'default_hooks.checkpoint.save_last=False', check=False)
    assert result.returncode == 1
    assert 'Error: the weights are not finite before the validation at step 1: backbone.' in result.stderr


@pytest.mark.parametrize('on_fault', ['stop', 'skip'])
def test_two_processes_decide_the_same(run_in_forks, root, tmp_path, on_fault):
    log = tmp_path / 'log'
    script = str(root / 'tests' / 'faults' / 'numbers_on_two.py')
    assert run_in_forks([['python', script, str(tmp_path), on_fault]], root, log, log) == 0, log.read_text()[-3000:]
    said = [(tmp_path / f'{on_fault}_{rank}.txt').read_text() for rank in range(2)]
    assert said[0] == said[1]
    if on_fault == 'stop':
        assert said[0].startswith('1 loss_cls, loss_box are not finite at step 2 in epoch 1 in process 1; the first module with '
                                  'a non-finite output is stem.1 (BatchNorm1d')
        assert 'pictures 5.jpg, 7.jpg; ' in said[0]
    else:
        assert said[0].startswith('4 ')
