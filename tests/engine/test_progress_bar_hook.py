import io
import re
import sys

import pytest
from mmengine.hooks import Hook
from rich.console import Console

from hybrid_mm import progress
from hybrid_mm.engine import ProgressBarHook
from hybrid_mm.engine.hooks import progress_bar

EPOCHS = dict(by_epoch=True, max_epochs=10, val_interval=10)  # 40 iterations


class Chatter(Hook):

    def after_train_epoch(self, runner):
        runner.logger.info(f'epoch {runner.epoch + 1} is over')


@pytest.fixture
def run(make_runner):
    """Run a training whose log goes to the console."""

    def run(**options):
        runner = make_runner(EPOCHS, [ProgressBarHook(), Chatter()], validate=True, **options)
        runner.logger.setLevel('INFO')
        for handler in runner.logger.handlers:
            handler.setLevel('INFO')
        runner.train()
        return runner

    return run


def test_without_a_terminal_a_line_appears_every_five_percent(run, capsys):
    run(default_hooks=dict(logger=dict(type='LoggerHook', interval=1)))
    printed = capsys.readouterr().out
    lines = re.findall(r'^training (\d+)/40 \((\d+) %\), loss [\d.e-]+, \d:\d\d:\d\d left$', printed, re.MULTILINE)
    assert lines == [(str(done), str(done * 100 // 40)) for done in range(2, 41, 2)]
    assert re.search(r'^validation 4/4 \(100 %\), 0:00:00 left$', printed, re.MULTILINE)


def test_lines_of_each_iteration_go_to_the_file_alone(run, capsys):
    runner = run(default_hooks=dict(logger=dict(type='LoggerHook', interval=1)))
    printed = capsys.readouterr().out
    assert 'Epoch(train)' not in printed
    assert 'epoch 3 is over' in printed and 'Epoch(val)' in printed
    with open(f'{runner._log_dir}/{runner.timestamp}.log') as log:
        assert log.read().count('Epoch(train)') == 40


@pytest.fixture
def terminal(monkeypatch):
    """What a terminal of 120 columns receives."""
    screen = io.StringIO()
    monkeypatch.setattr(progress, 'Console', lambda: Console(file=screen, force_terminal=True, width=120))
    return screen


def test_on_a_terminal_messages_appear_above_the_bar(run, terminal):
    stdout = sys.stdout
    runner = run()
    screen = re.sub(r'\x1b\[[\d;?]*[a-zA-Z]', '', terminal.getvalue())
    assert re.search(r'training ━+ 40/40 loss [\d.e-]+, 0:00:00 left', screen)
    assert re.search('^.*epoch 3 is over$', screen, re.MULTILINE)  # a line of its own
    assert sys.stdout is stdout
    assert all(handler.stream is stdout for handler in progress_bar._console_handlers(runner))


def test_the_bar_goes_on_where_a_training_resumes(make_runner, terminal):
    saving = dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)))
    make_runner(dict(by_epoch=True, max_epochs=2), **saving).train()
    make_runner(dict(by_epoch=True, max_epochs=3), [ProgressBarHook()], resume=True, **saving).train()
    done = [int(number) for number in re.findall(r'(\d+)/12', terminal.getvalue())]
    assert done[0] >= 8 and done[-1] == 12


def test_other_processes_than_the_first_are_silent(make_runner, capsys, monkeypatch):
    runner = make_runner(EPOCHS, [ProgressBarHook()])
    monkeypatch.setattr(runner, '_rank', 1)
    runner.train()
    assert 'training' not in capsys.readouterr().out


def test_testing_has_a_bar(make_runner, toy, capsys):
    loader = dict(dataset=toy.Dataset(), batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False))
    make_runner(EPOCHS, [ProgressBarHook()], test_dataloader=loader, test_cfg=dict(), test_evaluator=[]).test()
    assert re.findall(r'test (\d)/8', capsys.readouterr().out) == list('12345678')
