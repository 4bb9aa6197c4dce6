import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from hybrid_mm.engine import RandomStateHook

EPOCHS = dict(by_epoch=True, max_epochs=4, val_interval=1)
ITERATIONS = dict(by_epoch=False, max_iters=11, val_interval=3)


class Interrupt(Hook):
    """Ends a training after some iterations, as a loss of power does."""

    priority = 'LOWEST'

    def __init__(self, after):
        self.after = after

    def after_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == self.after:
            raise KeyboardInterrupt


def checkpoints(train_cfg, interval):
    return dict(checkpoint=dict(type='CheckpointHook', by_epoch=train_cfg['by_epoch'], interval=interval))


def trained(runner):
    runner.train()
    return [weight.detach().clone() for weight in runner.model.parameters()]


@pytest.mark.parametrize('train_cfg, interval, interrupt_after', [(EPOCHS, 1, 10), (ITERATIONS, 4, 9)])
def test_resumed_training_ends_with_the_weights_of_the_uninterrupted_one(
        make_runner, tmp_path, train_cfg, interval, interrupt_after):
    options = dict(validate=True, default_hooks=checkpoints(train_cfg, interval))
    expected = trained(make_runner(train_cfg, [RandomStateHook()], work_dir=str(tmp_path / 'whole'), **options))
    with pytest.raises(KeyboardInterrupt):
        trained(make_runner(train_cfg, [RandomStateHook(), Interrupt(interrupt_after)], **options))
    resumed = trained(make_runner(train_cfg, [RandomStateHook()], resume=True, **options))
    assert all(map(torch.equal, resumed, expected))


@pytest.mark.parametrize('train_cfg', [EPOCHS, ITERATIONS])
def test_validation_does_not_change_the_random_numbers_of_training(make_runner, tmp_path, train_cfg):
    expected = trained(make_runner(train_cfg, [RandomStateHook()], work_dir=str(tmp_path / 'without')))
    with_validation = trained(make_runner(train_cfg, [RandomStateHook()], validate=True))
    assert all(map(torch.equal, with_validation, expected))


def test_states_in_a_checkpoint_load_as_weights_only(make_runner, tmp_path):
    make_runner(EPOCHS, [RandomStateHook()]).train()
    path = tmp_path / 'states.pth'
    torch.save(torch.load(tmp_path / 'work' / 'epoch_4.pth', weights_only=False)['random_states'], path)
    state, = torch.load(path, weights_only=True)
    # the training has not drawn since
    assert torch.equal(state['torch'], torch.get_rng_state())
    assert state['numpy'][0] == np.random.get_state()[1].tolist()
    assert state['python'] == random.getstate()


def test_the_best_checkpoint_has_states_too(make_runner, tmp_path):
    saving = dict(type='CheckpointHook', by_epoch=False, interval=9, save_best='score', rule='greater')
    make_runner(ITERATIONS, [RandomStateHook()], validate=True, default_hooks=dict(checkpoint=saving)).train()
    best, = (tmp_path / 'work').glob('best*.pth')
    assert len(torch.load(best, weights_only=False)['random_states']) == 1


def test_weights_of_another_training_bring_no_random_numbers(make_runner, tmp_path):
    first = str(tmp_path / 'first')
    make_runner(EPOCHS, [RandomStateHook()], work_dir=first).train()
    checkpoint = f'{first}/epoch_2.pth'
    expected = trained(make_runner(EPOCHS, load_from=checkpoint))
    assert all(map(torch.equal, trained(make_runner(EPOCHS, [RandomStateHook()], load_from=checkpoint)), expected))


def test_a_checkpoint_of_another_number_of_processes_resumes_with_a_warning(make_runner, tmp_path, capsys):
    make_runner(EPOCHS, [RandomStateHook()]).train()
    path = tmp_path / 'work' / 'epoch_2.pth'
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['random_states'] *= 2
    torch.save(checkpoint, path)
    make_runner(EPOCHS, [RandomStateHook()], load_from=str(path), resume=True).train()
    assert 'no random states for this number of processes' in capsys.readouterr().out
