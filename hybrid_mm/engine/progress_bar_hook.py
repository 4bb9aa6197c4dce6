"""How far a run is, and how long it will still take."""
import atexit
import logging
import sys
from datetime import timedelta
from typing import Optional

from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from hybrid_mm.registry import HOOKS

_LINES = 20  # for a whole run, where there is no terminal


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """A bar with iterations, loss and time left; a line every 5 % where the output is no terminal.

    It takes the place of the lines that LoggerHook prints every few iterations; the log file still has them. All other
    messages of the log appear above the bar. The time left is that of the training itself, without later validations.
    """

    priority = 'LOW'  # behind IterTimerHook, which measures, and LoggerHook

    def __init__(self) -> None:
        self._bar: Optional[Progress] = None
        self._tasks = {}
        self._main = False

    def before_run(self, runner: Runner) -> None:
        self._main = runner.rank == 0
        if not self._main:
            return
        for handler in _console_handlers(runner):
            handler.addFilter(_is_no_iteration)
        console = Console()
        if console.is_terminal:
            self._bar = Progress(
                TextColumn('{task.description}'),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn('{task.fields[status]}'),
                console=console)
            self._bar.start()  # from here on sys.stdout prints above the bar
            atexit.register(self._bar.stop)  # gives the cursor back after an error too
            _redirect(runner)

    def after_run(self, runner: Runner) -> None:
        if not self._main:
            return
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
            _redirect(runner)
        for handler in _console_handlers(runner):
            handler.removeFilter(_is_no_iteration)

    def before_train(self, runner: Runner) -> None:
        self._begin('training', runner.max_iters, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        self._begin('validation', len(runner.val_dataloader))

    def before_test_epoch(self, runner: Runner) -> None:
        self._begin('test', len(runner.test_dataloader))

    def after_train_iter(self, runner: Runner, **kwargs) -> None:
        self._advance(runner, 'training', runner.max_iters, runner.iter + 1)

    def after_val_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._advance(runner, 'validation', len(runner.val_dataloader), batch_idx + 1)

    def after_test_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._advance(runner, 'test', len(runner.test_dataloader), batch_idx + 1)

    def after_val_epoch(self, runner: Runner, metrics: Optional[dict] = None) -> None:
        if self._bar is not None:
            self._bar.remove_task(self._tasks.pop('validation'))

    def _begin(self, name: str, total: int, done: int = 0) -> None:
        if self._bar is not None:
            self._tasks[name] = self._bar.add_task(name, total=total, completed=done, status='')

    def _advance(self, runner: Runner, name: str, total: int, done: int) -> None:
        if not self._main:
            return
        status = _status(runner, name)
        if self._bar is not None:
            self._bar.update(self._tasks[name], completed=done, status=status)
        elif done * _LINES // total > (done - 1) * _LINES // total:
            print(f'{name} {done}/{total} ({100 * done // total} %), {status}', flush=True)


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
