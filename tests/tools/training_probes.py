"""Hooks that tests put into a training of `tools/train.py`."""
import multiprocessing
import os
import signal
import subprocess
import threading

from mmengine.dist import all_reduce
from mmengine.fileio import LocalBackend
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
    """Kills the process where one of these variables says so; its first start alone, if a launcher restarts it.

    KILL_AFTER: after so many iterations, behind their checkpoint. KILL_IN_VALIDATION: in front of so many batches. KILL_WRITING:
    in the middle of so many checkpoints. KILL_SECONDS: so long after it has begun. KILL_WITH is the signal, by default SIGKILL;
    KILL_RANK the process, by default each; KILL_ANCESTOR says that the signal goes to its parent, 1, or the parent of that, 2, or
    to its worker processes as well, -1.
    """

    priority = 'LOWEST'

    def __init__(self):
        self.validated = self.written = 0

    def before_train(self, runner):
        self.rank = runner.rank
        if 'KILL_SECONDS' in os.environ:
            threading.Timer(float(os.environ['KILL_SECONDS']), self.kill).start()
        if 'KILL_WRITING' in os.environ:
            put = LocalBackend.put

            def put_half(backend, data, path):
                self.written += 1
                if self.written == int(os.environ['KILL_WRITING']):
                    put(backend, data[:len(data) // 2], path)
                    self.kill()
                put(backend, data, path)

            LocalBackend.put = put_half

    def after_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == int(os.environ.get('KILL_AFTER', 0)):
            self.kill()

    def before_val_iter(self, runner, **kwargs):
        self.validated += 1
        if self.validated == int(os.environ.get('KILL_IN_VALIDATION', 0)):
            self.kill()

    def kill(self):
        if os.environ.get('TORCHELASTIC_RESTART_COUNT', '0') != '0' or self.rank != int(os.environ.get('KILL_RANK', self.rank)):
            return
        number = getattr(signal, os.environ.get('KILL_WITH', 'SIGKILL'))
        process, ancestor = os.getpid(), int(os.environ.get('KILL_ANCESTOR', 0))
        for _ in range(ancestor):
            with open(f'/proc/{process}/stat') as file:
                process = int(file.read().rpartition(')')[2].split()[1])
        if ancestor < 0:  # by another process, since they obey this one
            subprocess.run(['kill', f'-{number}', *(str(child.pid) for child in multiprocessing.active_children())], check=True)
        os.kill(process, number)
