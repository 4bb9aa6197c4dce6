"""BatchNorm's statistics from whole pictures at the end of a training."""
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.model import BaseModel
from mmengine.registry import TRANSFORMS
from torch import nn

from hybrid_mm.engine import PreciseBNHook, SetupError

SIZES = [(6, 6)] * 5 + [(4, 8)] * 3


def load(results):
    """A picture of its own for each index, twice as bright in training."""
    picture = torch.randn(2, *SIZES[results['index']], generator=torch.Generator().manual_seed(results['index']))
    return dict(inputs=picture)


@TRANSFORMS.register_module(force=True)
class LoadForPreciseBN:

    def __call__(self, results):
        return load(results)


def brighten(results):
    return dict(inputs=2 * results['inputs'][:, :4, :4] + 5)


class Pictures(BaseDataset):

    def load_data_list(self):
        return [dict(index=index) for index in range(len(SIZES))]


class Net(BaseModel):

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5))
        self.frozen = nn.BatchNorm2d(3)
        self.auxiliary = nn.BatchNorm2d(3)

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, inputs, mode='tensor'):
        out = self.frozen(self.backbone(torch.stack(inputs) if isinstance(inputs, list) else inputs))
        return dict(loss=self.auxiliary(out).square().mean() + out.mean()) if mode == 'loss' else out


@pytest.fixture
def train(make_runner):

    def train(*hooks, test=True):
        loader = dict(batch_size=1, dataset=dict(pipeline=[dict(type='LoadForPreciseBN')]))
        runner = make_runner(dict(by_epoch=True, max_epochs=2), hooks, dataset=Pictures(pipeline=[load, brighten]), model=Net(),
                             cfg=Config(dict(test_dataloader=loader) if test else {}))
        runner.train()
        return runner.model

    return train


def test_statistics_are_those_of_the_pictures_as_they_are_tested(train):
    plain, precise = train(), train(PreciseBNHook(batch_size=4))
    norm = precise.backbone[1]
    batches = [[0, 1, 2, 3], [4], [5, 6, 7]]
    outputs = [precise.backbone[0](torch.stack([load(dict(index=index))['inputs'] for index in batch])) for batch in batches]
    for name, value in (('mean', torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)),
                        ('var', torch.stack([out.var((0, 2, 3)) for out in outputs]).mean(0))):
        torch.testing.assert_close(norm.state_dict()[f'running_{name}'], value)
        assert not torch.allclose(plain.backbone[1].state_dict()[f'running_{name}'], value, rtol=0.1)
    assert norm.momentum == 0.1 and norm.num_batches_tracked == plain.backbone[1].num_batches_tracked


def test_weights_modes_and_other_statistics_stay(train):
    plain, precise = train(), train(PreciseBNHook())
    for name, value in plain.state_dict().items():
        if not name.startswith('backbone.1.running'):
            assert torch.equal(precise.state_dict()[name], value), name
    assert precise.backbone[2].training and precise.auxiliary.training and not precise.frozen.training


def test_few_pictures_are_spread_over_the_training_part(train, monkeypatch):
    seen = []
    monkeypatch.setattr('hybrid_mm.engine.hooks.precise_bn._collate', lambda batch: (seen.append(len(batch)), dict(
        inputs=[sample['inputs'] for sample in batch]))[1])
    train(PreciseBNHook(num_pictures=4))
    assert seen == [3, 1]  # 0, 2, 4 and 6 of five and three


def test_a_config_without_tests_ends_before_the_training(train):
    with pytest.raises(SetupError, match='^PreciseBNHook .* neither a val_dataloader nor a test_dataloader'):
        train(PreciseBNHook(), test=False)


@pytest.mark.parametrize('option', ['num_pictures', 'batch_size'])
def test_numbers_below_one_are_refused(option):
    with pytest.raises(SetupError, match=f'^{option}=0 of PreciseBNHook is not allowed; choose 1 or more$'):
        PreciseBNHook(**{option: 0})
