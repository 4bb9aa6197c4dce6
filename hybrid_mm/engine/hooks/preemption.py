"""A training that is told to end saves what it has."""
import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List

import torch
from mmengine.dist import all_reduce, barrier, broadcast_object_list, master_only
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop

from hybrid_mm.output import whole_file
from hybrid_mm.registry import HOOKS

from ..loops import is_by_iterations
from .batches import shield_workers
from .random_state import RandomStateHook

INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: try again
_SIGNALS = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGUSR1') if hasattr(signal, name))  # Windows lacks the second
_TWICE_AFTER = 5.  # seconds, in which a launcher and its children are told of one and the same end


class _CutShort(Exception):
    """A signal ends a validation."""


@HOOKS.register_module()
class PreemptionHook(Hook):
    """Save at the end of the step when SIGTERM or SIGUSR1 arrives, slurm's warning, and leave with exit status 75.

    The checkpoint, ``iter_<n>.pth`` in the work folder, is what ``--resume`` goes on from; together with `RandomStateHook` the
    weights are in the end those of an undisturbed training. When a later checkpoint is there, it is removed. A signal during a
    validation ends it; after resuming, a validation that did not finish, however it ended, runs first: `last_validation` in the
    work folder holds the iteration of the last one that did.

    With gradient accumulation the step is one of the optimiser. All processes leave together, whichever got the signal. A
    second SIGTERM, 5 seconds after the first or later, ends the process at once, as without this hook.

    A launcher of several processes takes every status but 0 for a crash. Where the variable HYBRID_MM_INTERRUPTED names a file,
    the processes write the name of the signal into it and leave with status 0; ``tools/dist_train.sh`` and
    ``tools/slurm_train.sh`` do so, and leave with status 75 themselves.
    """

    priority = 95  # behind CheckpointHook (90)

    def __init__(self) -> None:
        self._signal = 0
        self._since = 0.
        self._former: Dict[int, Any] = {}
        self._saved = -1  # iteration of the last checkpoint to resume from; the main process alone knows it
        self._kept: List[str] = []  # names of checkpoints of this hook that are there
        self._writing = self._last = ''  # which is being written, and which is the last of all if it is this hook's
        self._mid_epoch = False
        self._resumed_at = 0  # iteration of the checkpoint, as it was counted then: ResumeScheduleHook may count otherwise
        self._cuts = False  # validations

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._resumed_at = checkpoint.get('meta', {}).get('iter', 0)
        self._mid_epoch = bool(checkpoint.get('position', {}).get('batch'))

    def before_train(self, runner: Runner) -> None:
        self._kept = runner.message_hub.runtime_info.get('interrupted', [])
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._notice) for number in _SIGNALS}
        shield_workers(runner.train_dataloader)
        if runner.val_loop is not None:
            shield_workers(runner.val_dataloader)
            if hasattr(runner.val_loop, 'evaluator'):
                self._let_signals_cut_short(runner)
                self._cuts = True
            if self._misses_validation(runner):
                self._validate(runner)

    def after_train_iter(self, runner: Runner, **kwargs) -> None:
        self._tidy(runner)
        if getattr(runner.optim_wrapper, 'should_update', lambda: True)():  # it has just done so
            number = self._agreed()
            if number:
                self._leave(runner, number, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def after_train_epoch(self, runner: Runner) -> None:
        self._tidy(runner)

    def before_val_iter(self, runner: Runner, **kwargs) -> None:
        if self._signal and self._cuts:
            raise _CutShort

    def after_val(self, runner: Runner) -> None:
        if isinstance(runner._train_loop, BaseLoop):
            self._record_validation(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if 'optimizer' in checkpoint:
            self._saved, self._last = checkpoint['meta']['iter'], self._writing

    def after_run(self, runner: Runner) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _notice(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if number == signal.SIGTERM and self._signal and now > self._since + _TWICE_AFTER:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._signal, self._since = self._signal or number, self._since or now

    def _agreed(self) -> int:
        """The signal that one of the processes got, or 0; all call this together."""
        number = torch.tensor(self._signal)
        all_reduce(number, 'max')  # none with one process
        return int(number)

    def _let_signals_cut_short(self, runner: Runner) -> None:
        """Let a validation end before its metrics if a signal has arrived on any process."""
        loop = runner.val_loop
        run, evaluate = loop.run, loop.evaluator.evaluate

        def evaluate_unless_signalled(*args: Any, **kwargs: Any) -> Any:
            number = self._agreed()
            if number:
                raise _CutShort(number)
            return evaluate(*args, **kwargs)

        def run_or_leave() -> Any:
            try:
                return run()
            except _CutShort as end:
                number = end.args[0] if end.args else self._agreed()
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook._swap_ema_parameters()  # validation has the average in the model's place
                elif isinstance(hook, RandomStateHook):
                    hook.after_val(runner)
            self._leave(runner, number, dict(epoch=runner.epoch, iter=runner.iter))

        loop.evaluator.evaluate, loop.run = evaluate_unless_signalled, run_or_leave

    def _misses_validation(self, runner: Runner) -> bool:
        """Whether the checkpoint that was resumed is from a moment when a validation was due that did not finish."""
        loop, record = runner.train_loop, Path(runner.work_dir, 'last_validation')
        if runner.rank == 0 and (runner.iter == 0 or self._mid_epoch or not record.is_file()):  # none is missing so far
            self._record_validation(runner)
        if runner.iter == 0 or self._mid_epoch or not hasattr(loop, '_decide_current_val_interval'):  # a loop of another kind
            return False
        now, end = (loop.iter, loop.max_iters) if is_by_iterations(runner) else (loop.epoch, loop.max_epochs)
        loop._decide_current_val_interval()
        due = now >= loop.val_begin and (now % loop.val_interval == 0 or now == end)
        misses = [due and runner.rank == 0 and int(record.read_text()) < self._resumed_at]
        broadcast_object_list(misses)
        if not misses[0]:
            self._record_validation(runner)  # in the present count
        return misses[0]

    def _validate(self, runner: Runner) -> None:
        runner.logger.info(f'The validation behind step {runner.iter} did not finish; it runs now.')
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.last_ckpt is None:
                # or it does not save the best score, and is not known to have the checkpoint that it resumed
                hook.last_ckpt = runner.message_hub.runtime_info.get('last_ckpt')
        runner.val_loop.run()

    @master_only
    def _record_validation(self, runner: Runner) -> None:
        with whole_file(Path(runner.work_dir, 'last_validation')) as partial:
            partial.write_text(str(runner.iter))

    def _leave(self, runner: Runner, number: int, meta: dict) -> None:
        for hook in runner.hooks:
            if isinstance(hook, RandomStateHook):
                hook.take_states()
        step = meta['iter']
        if runner.rank == 0 and self._saved != step:
            self._writing = f'iter_{step}.pth'
            self._kept = [*self._kept, self._writing]
            runner.message_hub.update_info('interrupted', self._kept)
            runner.save_checkpoint(runner.work_dir, self._writing, by_epoch=False, meta=meta)
            with whole_file(Path(runner.work_dir, 'last_checkpoint')) as partial:
                partial.write_text(self._writing)
            self._tidy(runner)
        barrier()
        name = signal.Signals(number).name
        runner.logger.warning(f'{name}: the training ends behind step {step}, whose checkpoint is in {runner.work_dir}; '
                              'the same command with --resume goes on from there.')
        runner.call_hook('after_run')
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)  # all is saved, and the status has to come through
        note = os.environ.get('HYBRID_MM_INTERRUPTED')
        if note:
            with suppress(FileNotFoundError):  # the launcher's script has gone, and its folder with it
                Path(note).write_text(name)
        raise SystemExit(0 if note else INTERRUPTED)

    @master_only
    def _tidy(self, runner: Runner) -> None:
        """Remove this hook's checkpoints but for the last one of all."""
        # CheckpointHook may have written one of the name since, when a validation gave the best score
        regular = os.path.basename(str(runner.message_hub.runtime_info.get('last_ckpt')))
        for name in [name for name in self._kept if name not in (self._last, regular)] if self._saved >= 0 else ():
            Path(runner.work_dir, name).unlink(missing_ok=True)
            self._kept = [kept for kept in self._kept if kept != name]
            runner.message_hub.update_info('interrupted', self._kept)
