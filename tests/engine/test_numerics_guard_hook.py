"""What the guard sees, says and leaves as it was, in a training of seconds."""
import itertools
import math
import re
from types import SimpleNamespace

import mmengine.optim.optimizer.amp_optimizer_wrapper as amp
import pytest
import torch
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from hybrid_mm.engine import NumericsGuardHook, SetupError

FAULTY = 5  # number of the picture that makes trouble; batches are (0, 1), (2, 3), (4, 5), (6, 7)


class Net(BaseModel):
    """A loss of two terms, and a fault at one picture: in a module, a loss term, the gradient, or the data."""

    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault
        self.stem = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs, data_samples, mode='tensor'):
        is_faulty = any(sample.img_path == f'{FAULTY}.jpg' for sample in data_samples)
        fault = self.fault if is_faulty else None
        x = torch.stack(inputs)
        out = self.head(self.stem[1](self.stem[0](x) * (math.inf if fault == 'module' else 1)))
        loss_box = out.square().mean() + (math.nan if fault == 'term' else 0)
        if fault == 'gradient':
            loss_box = loss_box + (self.head.weight - self.head.weight.detach()).abs().sum().sqrt()  # slope 1/0 at 0
        return dict(loss_cls=out.abs().mean(), loss_box=loss_box) if mode == 'loss' else [out]


class Pictures(torch.utils.data.Dataset):

    def __init__(self, with_nan=False):
        self.with_nan = with_nan

    def __len__(self):
        return 8

    def __getitem__(self, i):
        values = [math.nan if self.with_nan and i == FAULTY else float(i), 1.]
        return dict(inputs=torch.tensor(values), data_samples=SimpleNamespace(img_path=f'{i}.jpg'))


_numbers = itertools.count()


@pytest.fixture
def make(tmp_path):
    """The runner of two epochs in the order of the pictures."""

    def make(fault=None, hooks=(), with_nan=False, optim_wrapper=None, by_epoch=True, **guard):
        torch.manual_seed(0)
        return Runner(
            model=Net(fault),
            work_dir=str(tmp_path / 'work'),
            train_dataloader=dict(
                dataset=Pictures(with_nan), batch_size=2, num_workers=0, collate_fn=dict(type='pseudo_collate'),
                sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=False)),
            train_cfg=dict(by_epoch=True, max_epochs=2) if by_epoch else dict(by_epoch=False, max_iters=8),
            optim_wrapper=dict(dict(optimizer=dict(type='AdamW', lr=0.01)), **(optim_wrapper or {})),
            custom_hooks=[dict(type='hybrid_mm.NumericsGuardHook', **guard), *hooks],
            experiment_name=f'numbers{next(_numbers)}',
            log_level='WARNING')

    return make


def stop(runner):
    """The sentence that the training ends with, which leaves finite weights."""
    with pytest.raises(SetupError) as raised:
        runner.train()
    message = str(raised.value)
    assert '\n' not in message
    assert all(p.isfinite().all() for p in runner.model.parameters())
    return message


@pytest.mark.parametrize('fault, by_epoch, expected', [
    ('term', True, r'^loss_box is not finite at step 3 in epoch 1; the first module with a non-finite output is the model '
                   r'\(Net\); the pictures are finite; the weights are finite, '),
    ('module', True, r'^loss_cls, loss_box are not finite at step 3 in epoch 1; the first module with a non-finite output is '
                     r'stem\.1 \(BatchNorm1d, from an input that is not finite\); the pictures are finite; the weights are '
                     r'finite, the largest is [01]\.?\d*; '),
    ('module', False, '^loss_cls, loss_box are not finite at step 3; the first'),
    ('gradient', True, '^gradients are not finite at step 3 in epoch 1; the first non-finite gradient on the way back is that of '
                       'head.weight; '),
])
@pytest.mark.parametrize('clip', [None, dict(max_norm=1.), dict(type='value', clip_value=1.)])
def test_the_step_is_not_made_and_the_sentence_names_what_is_at_fault(make, fault, by_epoch, expected, clip):
    message = stop(make(fault, by_epoch=by_epoch, optim_wrapper=dict(clip_grad=clip)))
    assert re.search(expected, message), message
    assert 'learning rate 0.01; pictures 4.jpg, 5.jpg; there is no checkpoint yet; take a smaller' in message


def test_pictures_that_are_not_finite_are_named(make):
    message = stop(make(with_nan=True))
    assert 'these pictures are not finite: 5.jpg; the weights are finite' in message
    assert 'non-finite output is stem.0 (Linear, from an input that is not finite)' in message


def test_weights_and_the_last_checkpoint_are_named(make):
    runner = make()

    def poison(runner, **kwargs):
        if runner.iter == 4:
            runner.model.head.weight.data[0, 0] = math.inf

    runner.hooks[-1].after_train_iter = poison
    with pytest.raises(SetupError, match=r'^loss_cls, loss_box are not finite at step 6 in epoch 2; the first module .* is head '
                       r'\(Linear\); .*the weight head.weight is not finite already; .* the last checkpoint is .*epoch_1.pth; '):
        runner.train()


def test_the_last_checkpoint_is_found_in_another_folder(make, tmp_path):
    runner = make('module')
    checkpoint = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    checkpoint.out_dir, checkpoint.by_epoch = str(tmp_path / 'out'), False
    message = stop(runner)
    assert f'the last checkpoint is {tmp_path / "out" / "work" / "epoch_2.pth"}; ' in message


def test_a_fault_in_one_of_the_accumulated_batches_is_found(make):
    message = stop(make('module', optim_wrapper=dict(accumulative_counts=4)))
    assert message.startswith('loss_cls, loss_box are not finite at step 4 in epoch 1')
    assert 'is stem.1 (BatchNorm1d' in message and 'pictures 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, 5.jpg, 6.jpg, 7.jpg' in message


def state(runner):
    optimizer = runner.optim_wrapper.optimizer
    values = [*runner.model.state_dict().values(), *(v for s in optimizer.state.values() for v in s.values())]
    return [value.clone() for value in values]


@pytest.mark.parametrize('fault', ['term', 'module', 'gradient'])
@pytest.mark.parametrize('clip', [None, dict(max_norm=1.)])
def test_a_skipped_step_leaves_weights_statistics_and_optimizer(make, monkeypatch, fault, clip):
    states, warnings = [], []
    runner = make(fault, on_fault='skip', optim_wrapper=dict(clip_grad=clip), hooks=[dict(type='EMAHook')])
    runner.hooks[-1].after_train_iter = lambda runner, **kwargs: states.append(state(runner))
    monkeypatch.setattr(runner.logger, 'warning', warnings.append)
    runner.train()

    for before, after in ((1, 2), (5, 6)):  # steps 3 and 7
        assert all(torch.equal(*pair) for pair in zip(states[before], states[after]))
    assert not all(torch.equal(*pair) for pair in zip(states[2], states[3]))
    what = dict(term='loss_box is', module='loss_cls, loss_box are', gradient='gradients are')[fault]
    assert [line for line in warnings if 'skipped' in line] == [
        f'Step 3 is skipped: {what} not finite; pictures 4.jpg, 5.jpg; 1 in a row, 1 in all',
        'Epoch 1: number of skipped steps, whose loss or gradients were not finite: 1',
        f'Step 7 is skipped: {what} not finite; pictures 4.jpg, 5.jpg; 1 in a row, 2 in all',
        'Epoch 2: number of skipped steps, whose loss or gradients were not finite: 1']


def test_too_many_skips_in_a_row_stop(make, monkeypatch):
    runner = make(on_fault='skip', max_skips=2)
    monkeypatch.setattr(Net, 'parse_losses', lambda self, losses: (losses['loss_box'] * math.nan, dict(losses)))
    assert ' at step 3 in epoch 1; ' in stop(runner) and runner.iter == 2


def test_a_guarded_training_is_the_same_bit_for_bit(make):
    guarded, plain = make(), make()
    plain._hooks = [hook for hook in plain.hooks if not isinstance(hook, NumericsGuardHook)]
    guarded.train()
    plain.train()
    assert all(torch.equal(*pair) for pair in zip(state(guarded), state(plain)))


@pytest.fixture
def scaled(monkeypatch):
    """The settings of mixed precision with a loss scale, on a CPU."""
    monkeypatch.setattr(amp, 'is_cuda_available', lambda: True)
    monkeypatch.setattr(amp, 'GradScaler', lambda **kwargs: torch.amp.GradScaler('cpu', **kwargs))
    return dict(type='AmpOptimWrapper', dtype='bfloat16', loss_scale=dict(init_scale=4.))


def test_what_the_loss_scale_skips_is_no_fault(make, scaled):
    runner = make('gradient', optim_wrapper=scaled)
    runner.train()
    assert runner.optim_wrapper.loss_scaler.get_scale() == 1


def test_a_loss_scale_that_has_fallen_to_nothing_is_one(make, scaled):
    message = stop(make('gradient', optim_wrapper=dict(scaled, loss_scale=dict(init_scale=1.))))
    assert message.startswith('the loss scale has fallen to 0.5: the gradients overflow at any scale at step 3 in epoch 1; the '
                              'first non-finite gradient on the way back is that of head.weight')


@pytest.mark.parametrize('clip', [None, dict(max_norm=1.)])
def test_a_loss_that_is_not_finite_is_one_with_any_scale(make, scaled, clip):
    assert stop(make('term', optim_wrapper=dict(scaled, clip_grad=clip))).startswith('loss_box is not finite at step 3')


def test_gradients_whose_squares_overflow_are_none(make, monkeypatch):
    runner = make()
    monkeypatch.setattr(Net, 'parse_losses', lambda self, losses: (losses['loss_box'] * 1e25, dict(losses)))
    runner.train()


@pytest.mark.parametrize('arguments, message', [
    (dict(on_fault='ignore'), "^on_fault='ignore' is unknown; choose from 'stop', 'skip'$"),
    (dict(max_skips=0), '^max_skips=0 is not allowed; choose a whole number, 1 or more$'),
])
def test_arguments_outside_of_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        NumericsGuardHook(**arguments)


def test_schedulers_do_not_take_the_guarded_step_for_another(make, recwarn):
    runner = make()
    runner.param_schedulers = [dict(type='ExponentialLR', gamma=0.9, by_epoch=False)]
    runner.train()
    assert runner.optim_wrapper.param_groups[0]['lr'] == pytest.approx(0.01 * 0.9**7)  # the last step is past its end
    assert not [warning for warning in recwarn if 'has been overridden' in str(warning.message)]
