import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.datasets.samplers import AspectRatioBatchSampler
from mmengine.dataset import BaseDataset, Compose, InfiniteSampler
from mmengine.hooks import Hook
from torch.utils.data import DataLoader

from hybrid_mm.data.guarded_pipeline import GuardedPipeline
from hybrid_mm.engine import DataGuardHook, SetupError
from hybrid_mm.engine.hooks.data_guard import restart_workers


class LoadPoint:
    """Fails for one sample; the points have noise of two generators."""

    def __init__(self, broken):
        self.broken = broken

    def __call__(self, data):
        if data['number'] in self.broken:
            raise OSError('no light\nat all')
        noise = torch.rand(1).item() + np.random.rand()
        return dict(inputs=torch.tensor([float(data['number']), noise]))


class Points(BaseDataset):
    METAINFO = dict(classes=('a', 'b', 'c'))

    def load_data_list(self):
        return [dict(number=i) for i in range(8)]


def points(*broken):
    dataset = Points(pipeline=[LoadPoint(broken)])
    dataset.full_init()
    return dataset


EPOCHS = dict(by_epoch=True, max_epochs=2, val_interval=1)
ITERATIONS = dict(by_epoch=False, max_iters=60, val_interval=30)


@pytest.fixture
def run(make_runner):
    """Train on points, with worker processes or without, which end at once: left to the garbage collection they take seconds."""

    def run(dataset, train_cfg, hooks, workers=0, **options):
        runner = make_runner(train_cfg, hooks, dataset=dataset, **options)
        runner._train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
        try:
            runner.train()
        finally:
            if workers:
                runner.train_dataloader._iterator._shutdown_workers()
        return runner

    return run


class Lines(Hook):
    """Collects what is logged about samples."""

    def __init__(self, lines):
        self.lines = lines

    def before_run(self, runner):
        runner.logger.info = lambda line: self.lines.append(line) if 'samples' in line else None


@pytest.fixture
def train(run):
    """Train with the guard: what it logged, and the runner."""

    def train(dataset, train_cfg=EPOCHS, workers=0, hooks=(), val_dataset=None, **options):
        lines = []
        runner = run(dataset, train_cfg, [Lines(lines), DataGuardHook(**options), *hooks], workers, validate=True,
                     val_dataset=val_dataset or points())
        return lines, runner

    return train


@pytest.mark.parametrize('options, message', [
    (dict(samples='drop'), "samples='drop' of hybrid_mm.DataGuardHook is not allowed; choose from stop, skip"),
    (dict(max_share=1.5), 'max_share=1.5 of hybrid_mm.DataGuardHook is not allowed; choose 0 to 1'),
    (dict(max_share='1%'), "max_share='1%' of hybrid_mm.DataGuardHook is not allowed; choose 0 to 1"),
    (dict(max_share=True), 'max_share=True of hybrid_mm.DataGuardHook is not allowed; choose 0 to 1'),
])
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(SetupError, match=message):
        DataGuardHook(**options)


@pytest.mark.parametrize('train_cfg', [EPOCHS, ITERATIONS])
@pytest.mark.parametrize('workers', [0, 2])
def test_a_sample_that_fails_to_load_stops_the_training_with_one_sentence(train, train_cfg, workers):
    with pytest.raises(SetupError, match=r'^LoadPoint fails on sample 3: OSError: no light; mend it or take it out of the data, '
                       "or train without such samples by samples='skip' of hybrid_mm.DataGuardHook, in our "
                       'configs default_hooks.data_guard$'):
        train(points(3), train_cfg, workers)


@pytest.mark.parametrize('workers', [0, 2])
def test_the_log_of_each_epoch_counts_what_was_skipped(train, workers):
    lines, runner = train(points(3), workers=workers, samples='skip', max_share=0.5)
    assert len(lines) == 2 and runner.iter == 8
    for epoch, line in enumerate(lines, 1):
        skipped, seen = (int(word) for word in line.split()[:3:2])
        assert skipped >= 1 and seen == 8 + skipped
        named = ': LoadPoint fails on sample 3: OSError: no light' if epoch == 1 else ''
        assert line == f'{skipped} of {seen} samples in epoch {epoch} skipped{named}'


def test_by_iterations_the_log_counts_at_each_validation(train):
    lines, _ = train(points(3), ITERATIONS, samples='skip', max_share=0.5)
    assert [line.split(' samples ')[1].split(' skipped')[0] for line in lines] == [
        'in the iterations up to 30', 'in the iterations up to 60']


def test_whole_data_are_said_to_be_whole(train):
    assert train(points(), samples='skip')[0] == ['0 of 8 samples in epoch 1 skipped', '0 of 8 samples in epoch 2 skipped']
    assert train(points())[0] == []


def test_too_many_skipped_samples_stop_behind_the_checkpoint_of_the_epoch(train, tmp_path):
    with pytest.raises(SetupError, match=r'^\d of \d+ samples had to be skipped, more than max_share=0.1 of .*: LoadPoint fails'):
        train(points(3, 4), samples='skip', max_share=0.1)
    assert (tmp_path / 'work' / 'epoch_1.pth').exists()


def test_few_samples_between_validations_are_not_judged(train):
    train(points(3), dict(ITERATIONS, max_iters=4, val_interval=2), samples='skip', max_share=0.01)
    with pytest.raises(SetupError, match='more than max_share=0.01'):
        train(points(3), dict(ITERATIONS, max_iters=52, val_interval=52), samples='skip', max_share=0.01)


def test_evaluation_stops_where_training_skips(train):
    with pytest.raises(SetupError, match='^LoadPoint fails on sample 2: OSError: no light; mend it or take it out of the data$'):
        train(points(), val_dataset=points(2), samples='skip', max_share=1)


class Switch(Hook):
    """Changes the pipeline as MMDetection's PipelineSwitchHook does."""

    def before_train_epoch(self, runner):
        runner.train_dataloader.dataset.pipeline = Compose([LoadPoint([5])])


def test_a_pipeline_that_a_hook_puts_in_is_guarded(train):
    with pytest.raises(SetupError, match='LoadPoint fails on sample 5'):
        train(points(), hooks=[Switch()])


@pytest.mark.parametrize('train_cfg', [EPOCHS, dict(ITERATIONS, max_iters=6)])
@pytest.mark.parametrize('workers', [0, 2])
def test_whole_data_train_to_the_same_weights_with_and_without_the_guard(run, train_cfg, workers):
    weights = []
    for hooks in ([], [DataGuardHook()]):
        runner = run(points(), train_cfg, hooks, workers)
        weights.append(runner.model.state_dict())
    assert isinstance(runner.train_dataloader.dataset.pipeline, GuardedPipeline)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class Sides(torch.utils.data.Dataset):
    """One picture of four is higher than wide."""

    def __len__(self):
        return 8

    def get_data_info(self, index):
        return dict(width=1 if index % 4 == 0 else 3, height=2)

    def __getitem__(self, index):
        return index


def test_workers_that_start_anew_get_the_batches_of_like_shape_from_the_first_on():
    batches = AspectRatioBatchSampler(InfiniteSampler(Sides(), shuffle=False, seed=0), 3)
    loader = DataLoader(Sides(), batch_sampler=batches, num_workers=1)
    loop = SimpleNamespace(dataloader=loader, dataloader_iterator=SimpleNamespace(_iterator=iter(loader)))
    restart_workers(loop)
    restarted = loop.dataloader_iterator._iterator
    found = [next(restarted).tolist() for _ in range(4)]
    restarted._shutdown_workers()
    assert found == [[1, 2, 3], [5, 6, 7], [0, 4, 0], [1, 2, 3]]


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
