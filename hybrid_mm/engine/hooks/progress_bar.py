"""How far a run is, and how long it will still take."""
import atexit
import logging
import sys
from datetime import timedelta
from typing import Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner

from hybrid_mm.progress import Bars
from hybrid_mm.registry import HOOKS


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """A bar with iterations, loss and time left; a line every 5 % where the output is no terminal.

    It takes the place of the lines that LoggerHook prints every few iterations; the log file still has them. All other
    messages of the log appear above the bar. The time left is that of the training itself, without later validations.
    """

    priority = 'LOW'  # behind IterTimerHook, which measures, and LoggerHook

    def __init__(self) -> None:
        self._bars: Optional[Bars] = None  # of the first process alone

    def before_run(self, runner: Runner) -> None:
        if runner.rank != 0:
            return
        for handler in _console_handlers(runner):
            handler.addFilter(_is_no_iteration)
        self._bars = Bars()
        self._bars.start()
        if self._bars.is_terminal:
            atexit.register(self._bars.stop)  # gives the cursor back after an error too
            _redirect(runner)

    def after_run(self, runner: Runner) -> None:
        if self._bars is None:
            return
        self._bars.stop()
        if self._bars.is_terminal:
            _redirect(runner)
        self._bars = None
        for handler in _console_handlers(runner):
            handler.removeFilter(_is_no_iteration)

    def before_train(self, runner: Runner) -> None:
        self._begin('training', runner.max_iters, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        self._begin('validation', len(runner.val_dataloader))

    def before_test_epoch(self, runner: Runner) -> None:
        self._begin('test', len(runner.test_dataloader))

    def after_train_iter(self, runner: Runner, **kwargs) -> None:
        self._update(runner, 'training', runner.iter + 1, runner.max_iters)

    def after_val_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._update(runner, 'validation', batch_idx + 1, len(runner.val_dataloader))

    def after_test_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._update(runner, 'test', batch_idx + 1, len(runner.test_dataloader))

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        if self._bars is not None:
            self._bars.remove('validation')

    def _begin(self, name: str, total: int, done: int = 0) -> None:
        if self._bars is not None:
            self._bars.begin(name, total, done)

    def _update(self, runner: Runner, name: str, done: int, total: int) -> None:
        if self._bars is not None:
            self._bars.update(name, done, total, _status(runner, name))


def _status(runner: Runner, name: str) -> str:
    parts = []
    if name == 'training' and 'train/loss' in runner.message_hub.log_scalars:
        parts.append(f'loss {runner.message_hub.get_scalar("train/loss").mean(20):.4g}')
    seconds = runner.message_hub.get_info('eta')  # IterTimerHook's
    if seconds is not None:
        parts.append(f'{timedelta(seconds=round(seconds))} left')
    return ', '.join(parts)


def _is_no_iteration(record: logging.LogRecord) -> bool:
    return not (record.module == 'logger_hook' and record.funcName.endswith('_iter'))


def _console_handlers(runner: Runner) -> list:
    return [handler for handler in runner.logger.handlers if type(handler) is logging.StreamHandler]  # no files


def _redirect(runner: Runner) -> None:
    """Let the log's console handlers follow sys.stdout, which they took hold of before it was replaced."""
    for handler in _console_handlers(runner):
        handler.setStream(sys.stdout)
