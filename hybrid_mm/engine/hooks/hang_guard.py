"""A run of which a part stands still ends, and says which."""
import sys
import uuid
from pathlib import Path
from types import FrameType
from typing import Any, List, Optional

from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner

from hybrid_mm.engine.watchdog import Watchdog, group_store, identity, write_stacks
from hybrid_mm.errors import SetupError
from hybrid_mm.registry import HOOKS

from ..loops import is_by_iterations


@HOOKS.register_module()
class HangGuardHook(Hook):
    """End a run in which a process is stopped or stuck, with one sentence that names it, rather than wait for ever.

    Every process is watched by all others, one alone by itself. One is named that gives no sign of life, as it is stopped
    (SIGSTOP), its machine is gone, or code outside of Python keeps it; and one that lives and does not move while the others
    wait for it: for data, in a step, in a batch of a validation or test, while it writes a checkpoint. The log has the sentence,
    and `hang.txt` beside it the stack of every process. All end with status 124; torchrun and `srun --kill-on-bad-exit` then
    kill the rest.

    What may take any time is watched for signs of life alone: the preparation of a run, such as fetching weights; passing over
    the data that an iteration-based training had before it was interrupted; steps in which the model may be compiled;
    computing metrics after the last batch. There a process that is stuck is left to the timeout of torch's group. A debugger
    in a process stops its clock, and so does a job that is suspended as a whole.

    Args:
        timeout: seconds within which a process is named, 0 or None for no guard. With our `tools/train.py`: ``--hang-timeout``.

    Raises:
        SetupError: the timeout is no such number.
    """

    priority = 'LOWEST'  # what other hooks do behind a step counts as in it, and in front of one as waiting for data

    def __init__(self, timeout: Optional[float] = 600) -> None:
        if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0):
            raise SetupError(f'timeout={timeout!r} of hybrid_mm.HangGuardHook is not allowed; give seconds, or 0 for no guard')
        self.timeout = timeout
        self._watchdog: Optional[Watchdog] = None
        self._compiles = False

    def before_run(self, runner: Runner) -> None:
        if not self.timeout:
            return
        self.after_run(runner)  # of a run that an exception ended
        processes = all_gather_object(dict(identity(), key=uuid.uuid4().hex))
        key, *_ = [process.pop('key') for process in processes]
        self._compiles = bool(runner.cfg.get('compile'))

        def report(sentence: str, states: List[dict]) -> None:
            path = Path(runner.log_dir) / 'hang.txt'
            runner.logger.error(f'{sentence}. The run ends; {path} has the stacks of all processes.')
            write_stacks(path, sentence, states)

        self._watchdog = Watchdog(self.timeout, key, report, processes, get_rank(), _frame_of(runner),
                                  group_store if len(processes) > 1 else None)

    def after_run(self, runner: Runner) -> None:
        if self._watchdog is not None:
            self._watchdog.stop()
            self._watchdog = None

    # Where the process is: iteration; then 0 behind a step, 1 validation or test, 2 metrics, 3 in front of a step, 4 in it.

    def before_train_epoch(self, runner: Runner) -> None:
        passes_over = runner.iter > 0 and is_by_iterations(runner)
        self._move(runner.iter, 3, 0, 'passes over the data of the steps before the interruption' if passes_over else
                   'waits for data', counts=not passes_over)

    def before_train_iter(self, runner: Runner, **kwargs) -> None:
        self._move(runner.iter, 4, 0, 'is in the step', counts=not (self._compiles or _compiles(runner)))

    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._compiles = False
        ends = not is_by_iterations(runner) and batch_idx + 1 == len(runner.train_dataloader)
        self._move(runner.iter + 1, 0, 0, 'ends the epoch' if ends else 'waits for data')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._watchdog is not None:
            self._watchdog.move(self._watchdog.position, 'writes a checkpoint')  # the first process alone

    def before_val(self, runner: Runner) -> None:
        self._move(runner.iter, 1, 0, 'waits for data of the validation')

    def before_val_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._move(runner.iter, 1, 2 * batch_idx + 1, f'is in batch {batch_idx + 1} of the validation')

    def after_val_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._after_batch(runner.iter, batch_idx, len(runner.val_dataloader), 'validation')

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self._move(runner.iter, 3, 0, 'waits for data')

    def before_test(self, runner: Runner) -> None:
        self._move(0, 1, 0, 'waits for data of the test')

    def before_test_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._move(0, 1, 2 * batch_idx + 1, f'is in batch {batch_idx + 1} of the test', counts=not _compiles(runner))

    def after_test_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._after_batch(0, batch_idx, len(runner.test_dataloader), 'test')

    def after_test_epoch(self, runner: Runner, metrics: Any = None) -> None:
        self._move(0, 3, 0, 'ends the test')

    def _after_batch(self, step: int, batch_idx: int, count: int, what: str) -> None:
        if batch_idx + 1 == count:
            self._move(step, 2, 0, f'computes the metrics of the {what}', counts=False)
        else:
            self._move(step, 1, 2 * batch_idx + 2, f'waits for data of the {what}')

    def _move(self, step: int, part: int, batch: int, doing: str, counts: bool = True) -> None:
        if self._watchdog is not None:
            self._watchdog.move((step, part, batch), doing, counts)


def _compiles(runner: Runner) -> bool:
    return any(getattr(hook, 'compiles', False) for hook in runner.hooks)


def _frame_of(runner: Runner) -> Optional[FrameType]:
    """Frame of ``runner.train()``, ``val()`` or ``test()``, if it is what calls."""
    frame: Optional[FrameType] = sys._getframe()
    while frame is not None and not (frame.f_code.co_name in ('train', 'val', 'test') and frame.f_locals.get('self') is runner):
        frame = frame.f_back
    return frame
