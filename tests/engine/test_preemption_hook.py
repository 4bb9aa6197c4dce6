import os
import signal

import pytest
import torch
from mmengine.hooks import EMAHook, Hook

from hybrid_mm.engine import CheckpointHook, PreemptionHook, RandomStateHook, ResumeScheduleHook

EPOCHS = dict(by_epoch=True, max_epochs=3, val_interval=1)  # of four steps
ITERATIONS = dict(by_epoch=False, max_iters=11, val_interval=3)
HANDLERS = [signal.SIGTERM, signal.SIGUSR1]


class Signal(Hook):
    """Sends a signal to the process in a step, or in front of a batch of a validation; counts validations."""

    def __init__(self, number=signal.SIGTERM, step=None, batch=None):
        self.number, self.step, self.batch = number, step, batch
        self.validations = []

    def after_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == self.step:
            os.kill(os.getpid(), self.number)

    def before_val(self, runner):
        self.validations.append(runner.iter)

    def before_val_iter(self, runner, batch_idx, **kwargs):
        if self.batch == (runner.iter, batch_idx):
            os.kill(os.getpid(), self.number)


@pytest.fixture(autouse=True)
def handlers():
    former = [signal.getsignal(number) for number in HANDLERS]
    yield former
    for number, handler in zip(HANDLERS, former):
        signal.signal(number, handler)


@pytest.fixture
def train(make_runner, tmp_path):
    """Train the toy with all that an interruption touches; returns the last checkpoint's weights and averages."""

    def train(train_cfg, *hooks, folder='work', **options):
        hooks = [RandomStateHook(), PreemptionHook(), *hooks]
        saving = dict(type=CheckpointHook, by_epoch=train_cfg['by_epoch'], interval=1 if train_cfg['by_epoch'] else 4)
        runner = make_runner(train_cfg, hooks, work_dir=str(tmp_path / folder), default_hooks=dict(checkpoint=saving),
                             param_scheduler=dict(type='LinearLR', by_epoch=False, end=9), **{'validate': True, **options})
        runner.train()
        files = sorted((tmp_path / folder).glob('*.pth'))
        last = max((torch.load(file, weights_only=False) for file in files), key=lambda checkpoint: checkpoint['meta']['iter'])
        return [*last['state_dict'].values(), *last.get('ema_state_dict', {}).values()], [file.name for file in files]

    return train


def check_same(train, tmp_path, train_cfg, sent, step, hooks=lambda: (), **options):
    """``step``: behind which the training that gets the signal ends."""
    expected, names = train(train_cfg, *hooks(), folder='undisturbed', **options)
    with pytest.raises(SystemExit) as end:
        train(train_cfg, *hooks(), sent, **options)
    assert end.value.code == 75
    saved = [torch.load(file, weights_only=False)['meta']['iter'] for file in (tmp_path / 'work').glob('*.pth')]
    assert max(saved) == step
    probe = Signal()
    weights, left = train(train_cfg, *hooks(), probe, resume=True, **options)
    assert all(map(torch.equal, weights, expected)) and left == names
    return probe.validations


@pytest.mark.parametrize('train_cfg', [EPOCHS, ITERATIONS], ids=['epochs', 'iterations'])
@pytest.mark.parametrize('step', [1, 4, 6, 'last'])
def test_a_training_ends_behind_the_step_and_goes_on(train, tmp_path, train_cfg, step):
    step = train_cfg.get('max_iters', 12) if step == 'last' else step
    check_same(train, tmp_path, train_cfg, Signal(step=step), step)


@pytest.mark.parametrize('train_cfg', [EPOCHS, ITERATIONS], ids=['epochs', 'iterations'])
def test_a_validation_that_is_cut_runs_first_and_a_finished_one_does_not(train, tmp_path, train_cfg):
    at = [4, 8, 12] if train_cfg is EPOCHS else [3, 6, 9, 11]
    cut = at[1]
    validations = check_same(train, tmp_path, train_cfg, Signal(batch=(cut, 2)), cut, lambda: (EMAHook(), ))
    assert validations == at[1:]


def test_an_epoch_of_another_length_starts_anew_and_no_step_counts_twice(train, tmp_path, toy):
    with pytest.raises(SystemExit):
        train(EPOCHS, Signal(step=6), dataset=toy.Dataset(length=8))  # in the middle of the second epoch of four steps
    steps = []

    class Count(Hook):
        def after_train_iter(self, runner, **kwargs):
            steps.append((runner.epoch, runner.iter))

    probe = Signal()
    train(EPOCHS, ResumeScheduleHook(), Count(), probe, dataset=toy.Dataset(length=12), resume=True)
    assert steps == [(1, i) for i in range(6, 12)] + [(2, i) for i in range(12, 18)]
    assert probe.validations == [12, 18]


def test_a_finished_validation_is_not_repeated_where_epochs_have_another_length(train, toy):
    train(dict(EPOCHS, max_epochs=2), dataset=toy.Dataset(length=8))
    for epochs, length, validations in ((3, 12, [18]), (4, 8, [16])):  # the count of steps goes from 8 to 12, from 18 to 12
        probe = Signal()
        train(dict(EPOCHS, max_epochs=epochs), ResumeScheduleHook(), probe, dataset=toy.Dataset(length=length), resume=True)
        assert probe.validations == validations


def test_a_finished_training_has_nothing_to_do(train):
    _, names = train(EPOCHS)
    probe = Signal()
    assert train(EPOCHS, probe, resume=True)[1] == names
    assert probe.validations == []


def test_gradients_that_are_being_accumulated_are_used_first(train, tmp_path, capsys):
    wrapper = dict(optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=3)
    check_same(train, tmp_path, ITERATIONS, Signal(step=4), 6, optim_wrapper=wrapper)
    assert 'the training ends behind step 6,' in capsys.readouterr().out


def test_a_launcher_of_several_processes_finds_a_note(train, tmp_path, monkeypatch):
    monkeypatch.setenv('HYBRID_MM_INTERRUPTED', str(tmp_path / 'note'))
    with pytest.raises(SystemExit) as end:
        train(EPOCHS, Signal(signal.SIGUSR1, step=2))
    assert end.value.code == 0 and (tmp_path / 'note').read_text() == 'SIGUSR1'


def test_a_launcher_that_was_told_first_may_be_gone(train, tmp_path, monkeypatch):
    monkeypatch.setenv('HYBRID_MM_INTERRUPTED', str(tmp_path / 'removed' / 'note'))
    with pytest.raises(SystemExit) as end:
        train(EPOCHS, Signal(signal.SIGTERM, step=2))
    assert end.value.code == 0


def test_former_handlers_are_back_after_a_training(train, handlers):
    train(EPOCHS)
    assert [signal.getsignal(number) for number in HANDLERS] == handlers


def test_a_second_sigterm_ends_the_process_if_it_is_another_one(monkeypatch):
    hook, sent, now = PreemptionHook(), [], [10.]
    monkeypatch.setattr('os.kill', lambda process, number: sent.append(number))
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    hook._notice(signal.SIGTERM, None)
    now[0] += 4  # a launcher that got it too
    hook._notice(signal.SIGTERM, None)
    assert sent == []
    now[0] += 2
    hook._notice(signal.SIGTERM, None)
    assert sent == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_run_without_training_leaves_signals_alone(make_runner, handlers):
    make_runner(EPOCHS, [PreemptionHook()], validate=True).val()
    assert [signal.getsignal(number) for number in HANDLERS] == handlers
