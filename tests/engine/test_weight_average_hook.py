import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner

from hybrid_mm.checkpoints import load_released


class Model(BaseModel):
    """Each step takes 1 from its weight, which starts at 0, and the statistic of each step is the number of steps."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer('statistic', torch.zeros(1))
        self.tested = []

    def forward(self, inputs, mode='tensor'):
        if mode == 'predict':
            self.tested.append(self.weight.item())
            return [{}]
        self.statistic += 1
        return dict(loss=self.weight.sum())


class NoMetric(BaseMetric):
    default_prefix = 'none'

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {}


def runner(folder, epochs, model, **options):
    loader = dict(dataset=[dict(inputs=torch.zeros(1))] * 2, batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler'))
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=Evaluator([NoMetric()]),
        test_dataloader=loader,
        test_cfg=dict(),
        test_evaluator=Evaluator([NoMetric()]),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.)),
        custom_hooks=[dict(type='hybrid_mm.WeightAverageHook', momentum=0.5, update_buffers=True)],
        experiment_name=f'{folder.parent.name}_{folder.name}_{epochs}_{len(options)}',
        log_level='ERROR',
        **options)


@pytest.fixture
def model(tmp_path):
    """Trained for two epochs of two steps: weights -1, -2, -3, -4."""
    model = Model()
    runner(tmp_path, 2, model).train()
    return model


def test_last_weights_are_validated_and_trained_on(model):
    assert model.tested == [-2., -2., -4., -4.]
    assert model.weight.item() == -4.


def test_checkpoint_is_of_the_last_weights_with_the_average_beside(model, tmp_path):
    checkpoint = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)

    assert {key: float(value) for key, value in checkpoint['state_dict'].items()} == {'weight': -4., 'statistic': 4.}
    # -1, then half of the way to each weight: -1.5, -2.25, -3.125
    assert float(checkpoint['ema_state_dict']['module.weight']) == -3.125
    assert float(checkpoint['ema_state_dict']['module.statistic']) == 3.125
    assert float(load_released(str(tmp_path / 'epoch_2.pth'))['weight']) == -4.


def test_test_of_a_checkpoint_is_of_the_last_weights(model, tmp_path):
    tested = Model()
    runner(tmp_path, 2, tested, load_from=str(tmp_path / 'epoch_2.pth')).test()

    assert tested.tested == [-4., -4.]


def test_resumed_training_goes_on_with_both(model, tmp_path):
    resumed = Model()
    folder = tmp_path / 'resumed'
    runner(folder, 2, resumed, load_from=str(tmp_path / 'epoch_1.pth'), resume=True).train()

    assert resumed.tested == [-4., -4.]
    assert float(torch.load(folder / 'epoch_2.pth', weights_only=False)['ema_state_dict']['module.weight']) == -3.125
