import random

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler

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


@DATA_SAMPLERS.register_module()
class OddAndEven(BatchSampler):
    """Keeps what is left over for later batches, as mmdet's AspectRatioBatchSampler."""

    def __init__(self, sampler, batch_size):
        super().__init__(sampler, batch_size, drop_last=False)
        self.left = [[], []]

    def __iter__(self):
        for index in self.sampler:
            bucket = self.left[index % 2]
            bucket.append(index)
            if len(bucket) == self.batch_size:
                yield bucket[:]
                bucket.clear()
        yield from filter(None, self.left)
        self.left = [[], []]


def checkpoints(train_cfg, interval):
    return dict(checkpoint=dict(type='CheckpointHook', by_epoch=train_cfg['by_epoch'], interval=interval))


def trained(runner):
    try:
        runner.train()
    finally:  # garbage collection would close the pipes first and then wait for the worker processes
        batches = getattr(runner.train_loop, 'dataloader_iterator', runner.train_dataloader)._iterator
        if hasattr(batches, '_shutdown_workers'):
            batches._shutdown_workers()
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


class Steps(Hook):
    """What a training's steps are given: epoch, number of the batch, pictures."""

    def __init__(self):
        self.seen = []

    def before_train_iter(self, runner, batch_idx, data_batch):
        self.seen.append((runner.epoch, runner.iter, batch_idx, [points.tolist() for points in data_batch['inputs']]))


@pytest.mark.parametrize('train_cfg, loading', [
    (EPOCHS, dict()),
    (EPOCHS, dict(batch_sampler=dict(type='OddAndEven'))),
    (EPOCHS, dict(num_workers=2, persistent_workers=True)),
    (EPOCHS, dict(num_workers=1, persistent_workers=True)),
    (ITERATIONS, dict(num_workers=2)),
    (ITERATIONS, dict(batch_sampler=dict(type='OddAndEven'))),
    (ITERATIONS, dict(sampler=dict(type='DefaultSampler', shuffle=True))),  # ends, and is begun again
], ids=str)
@pytest.mark.parametrize('seed', [0, None])
def test_a_training_goes_on_in_the_middle_of_an_epoch(make_runner, tmp_path, monkeypatch, train_cfg, loading, seed):
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # mmengine's, before data begin again
    options = dict(loading=loading, validate=True, default_hooks=checkpoints(dict(by_epoch=False), 3))
    if seed is None:
        options['randomness'] = dict(seed=None)  # each start draws a seed
    whole, early, late = Steps(), Steps(), Steps()
    np.random.seed(1)
    expected = trained(make_runner(train_cfg, [RandomStateHook(), whole], work_dir=str(tmp_path / 'whole'), **options))
    np.random.seed(1)
    with pytest.raises(KeyboardInterrupt):
        trained(make_runner(train_cfg, [RandomStateHook(), early, Interrupt(7)], **options))
    np.random.seed(2)
    resumed = trained(make_runner(train_cfg, [RandomStateHook(), late], resume=True, **options))
    assert early.seen[:6] + late.seen == whole.seen
    assert all(map(torch.equal, resumed, expected))


@pytest.mark.parametrize('train_cfg', [EPOCHS, ITERATIONS])
@pytest.mark.parametrize('after', [4, 8])
def test_a_checkpoint_of_the_last_batch_of_an_epoch_is_in_its_middle_too(make_runner, tmp_path, train_cfg, after):
    options = dict(default_hooks=checkpoints(dict(by_epoch=False), after))
    expected = trained(make_runner(train_cfg, [RandomStateHook()], work_dir=str(tmp_path / 'whole'), **options))
    with pytest.raises(KeyboardInterrupt):
        trained(make_runner(train_cfg, [RandomStateHook(), Interrupt(after + 1)], **options))
    assert all(map(torch.equal, trained(make_runner(train_cfg, [RandomStateHook()], resume=True, **options)), expected))


@pytest.mark.parametrize('train_cfg', [EPOCHS, ITERATIONS])
def test_batches_that_are_passed_over_are_not_loaded(make_runner, toy, train_cfg):

    class Counted(toy.Dataset):
        loaded = 0

        def __getitem__(self, index):
            self.loaded += 1
            return super().__getitem__(index)

    options = dict(default_hooks=checkpoints(dict(by_epoch=False), 3))
    with pytest.raises(KeyboardInterrupt):
        trained(make_runner(train_cfg, [RandomStateHook(), Interrupt(7)], **options))
    runner = make_runner(train_cfg, [RandomStateHook()], resume=True, dataset=Counted(), **options)
    runner.train()
    assert runner.train_dataloader.dataset.loaded == 2 * (runner.max_iters - 6)


def test_another_number_of_batches_begins_the_epoch_anew_with_a_warning(make_runner, capsys):
    options = dict(default_hooks=checkpoints(dict(by_epoch=False), 3))
    with pytest.raises(KeyboardInterrupt):
        trained(make_runner(EPOCHS, [RandomStateHook(), Interrupt(7)], **options))
    steps = Steps()
    make_runner(EPOCHS, [RandomStateHook(), steps], resume=True, loading=dict(batch_size=4), **options).train()
    assert 'saved behind 2 of 4 batches of its epoch, which now has 2; the epoch starts anew' in capsys.readouterr().out
    assert [(epoch, number) for epoch, _, number, _ in steps.seen] == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0), (3, 1)]


def test_random_numbers_of_a_batch_do_not_depend_on_the_number_of_worker_processes(make_runner, tmp_path):
    seen = []
    for workers in (1, 2):
        steps = Steps()
        trained(make_runner(EPOCHS, [RandomStateHook(), steps], loading=dict(num_workers=workers)))
        seen.append(steps.seen)
    assert seen[0] == seen[1]
    noise = [points[1] for _, _, _, batch in seen[0] for points in batch]
    assert len(set(noise)) == 32  # of mmengine, worker processes of each epoch draw the numbers of the first


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
