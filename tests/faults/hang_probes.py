"""A hook that lets a process of a training stand still; put in by tests of `tools/train.py`."""
import os
import signal
import time

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class StandStill(Hook):
    """As the variable STAND_STILL says, 'RANK STEP stop' or 'RANK STEP data': the process is stopped in front of a step, or its
    data of that step do not come."""

    def __init__(self):
        rank, step, self.how = os.environ['STAND_STILL'].split()
        self.rank, self.step = int(rank), int(step)

    def before_train(self, runner):
        if self.how == 'data' and runner.rank == self.rank:
            loader = runner.train_dataloader
            collate = loader.collate_fn
            loader.collate_fn = lambda samples: time.sleep(1000) if runner.iter == self.step else collate(samples)

    def before_train_iter(self, runner, **kwargs):
        if self.how == 'stop' and runner.rank == self.rank and runner.iter == self.step:
            print(f'stops at {time.time()}', flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
