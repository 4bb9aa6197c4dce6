"""Hooks that tests put into a training of `tools/train.py`."""
import os
import signal

from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class RecordLosses(Hook):
    """Writes the loss of each iteration, its mean over the processes, to `losses.txt` in the work folder."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs['loss'].detach().double()
        all_reduce(loss, 'mean')
        if runner.rank == 0:
            with open(os.path.join(runner.work_dir, 'losses.txt'), 'a') as file:
                file.write(f'{loss.item()!r}\n')


@HOOKS.register_module()
class KillProcess(Hook):
    """Kills the process after as many iterations as the variable KILL_AFTER says, behind their checkpoint."""

    priority = 'LOWEST'

    def after_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == int(os.environ.get('KILL_AFTER', 0)):
            os.kill(os.getpid(), signal.SIGKILL)
