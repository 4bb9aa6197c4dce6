"""A training of seconds, with random numbers everywhere."""
import itertools
import random

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn


class Head(nn.Linear):

    def __init__(self, num_classes):
        super().__init__(4, num_classes)
        self.num_classes = num_classes


class Model(BaseModel):

    def __init__(self, num_classes=3):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5))
        self.head = Head(num_classes)

    def forward(self, inputs, mode='tensor'):
        out = self.head(self.backbone(torch.stack(inputs)))
        return dict(loss=out.square().mean()) if mode == 'loss' else [out]


class Dataset(torch.utils.data.Dataset):
    """Points that all three generators have a hand in, as augmentations of pictures have."""

    def __init__(self, length=8, classes=('a', 'b', 'c')):
        self.length = length
        self.metainfo = dict(classes=classes)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        noise = torch.rand(1).item() + np.random.rand() + random.random()
        return dict(inputs=torch.tensor([float(index), noise]))


class Metric(BaseMetric):

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(score=0)


_numbers = itertools.count()


@pytest.fixture
def make_runner(tmp_path):
    """Build a runner of the toy training.

    Args: `train_cfg` and `hooks`; whether to validate; data sets for training and validation; more for `Runner`.
    """

    def make(train_cfg, hooks=(), validate=False, dataset=Dataset(), val_dataset=Dataset(), model=None, **options):

        def loader(data, sampler='DefaultSampler'):
            return dict(dataset=data, batch_size=2, num_workers=0, sampler=dict(type=sampler, shuffle=True))

        if validate:
            options = dict(dict(val_dataloader=loader(val_dataset), val_cfg=dict(), val_evaluator=dict(type=Metric)), **options)
        options.setdefault('work_dir', str(tmp_path / 'work'))
        torch.manual_seed(0)  # the runner does so before it builds a model itself
        return Runner(
            model=model or Model(),
            train_dataloader=loader(dataset, 'DefaultSampler' if train_cfg['by_epoch'] else 'InfiniteSampler'),
            train_cfg=train_cfg,
            optim_wrapper=options.pop('optim_wrapper', None) or dict(optimizer=dict(type='AdamW', lr=0.01)),
            custom_hooks=list(hooks),
            randomness=dict(seed=0),
            experiment_name=f'toy{next(_numbers)}',
            log_level='WARNING',
            **options)

    return make


@pytest.fixture
def toy():
    """The classes of the toy training."""

    class Toy:
        pass

    Toy.Model, Toy.Dataset = Model, Dataset
    return Toy
