"""What happens to a training of `tools/train.py` while it writes a checkpoint, as variables of the environment say."""
import os
import resource
import signal

from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class DisturbWriting(Hook):
    """From the epoch FROM_EPOCH on: LIMIT, no file may become larger than so many bytes; KILL_AT, the process is killed after so
    large a part of a checkpoint is written."""

    def before_train_epoch(self, runner):
        if runner.epoch + 1 != int(os.environ.get('FROM_EPOCH', 0)):
            return
        if 'LIMIT' in os.environ:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ['LIMIT']), ) * 2)
        if 'KILL_AT' in os.environ:
            LocalBackend.put = write_a_part


def write_a_part(self, obj, filepath):
    obj = bytes(obj)
    with open(filepath, 'wb') as file:
        file.write(obj[:int(float(os.environ['KILL_AT']) * len(obj))])
    os.kill(os.getpid(), signal.SIGKILL)
