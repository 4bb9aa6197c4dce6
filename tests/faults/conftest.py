"""A training that tests interrupt."""
from pathlib import Path

import pytest
import torch

from hybrid_mm.checkpoints.integrity import fault_of
from hybrid_mm.compat import allow_training_checkpoints

allow_training_checkpoints()


class Training:
    """A tiny config with settings and its last checkpoint, in one folder or another."""

    def __init__(self, run_tool, config, final, *options, tool='train.py'):
        self._run, self._tool, self._config, self._final, self._options = run_tool, tool, config, final, options

    def run(self, work_dir, *args, **options):
        return self._run(self._tool, self._config, *args, '--work-dir', work_dir, '--cfg-options', *self._options, **options)

    def end(self, work_dir):
        """What the last checkpoint holds of the state of the training."""
        checkpoint = torch.load(Path(work_dir, self._final), map_location='cpu')
        return {key: checkpoint[key] for key in ('state_dict', 'optimizer', 'param_schedulers', 'random_states')}


def same(one, other):
    """Whether two nested values are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture(scope='session')
def whole():
    """The checkpoints of a folder, by name, each of them whole."""

    def names(work_dir):
        files = sorted(Path(work_dir).glob('*.pth'))
        assert not [file for file in files if fault_of(str(file))]
        return [file.name for file in files]

    return names


def end_of(training, work_dir, *args, **options):
    """How a training ends when nothing happens, and the names of its checkpoints."""
    training.run(work_dir, *args, **options)
    return training.end(work_dir), sorted(path.name for path in work_dir.glob('*.pth'))


@pytest.fixture(scope='session')
def classifier_training(run_tool, tiny, tmp_path_factory):
    """Two epochs of four steps, each with a validation of four batches; and how it ends."""
    training = Training(run_tool, tiny('classifier'), 'epoch_2.pth', 'train_dataloader.batch_size=5',
                        'val_dataloader.batch_size=5', 'train_dataloader.sampler.shuffle=True', 'train_cfg.max_epochs=2',
                        'model.backbone.drop_path_rate=0.2')
    return training, end_of(training, tmp_path_factory.mktemp('classifier'))


@pytest.fixture(scope='session')
def detector_training(run_tool, tiny, tmp_path_factory):
    """The same numbers of steps and batches, slower, and of a library that draws more."""
    training = Training(run_tool, tiny('detector'), 'epoch_2.pth', 'train_dataloader.batch_size=2')
    return training, end_of(training, tmp_path_factory.mktemp('detector'))
