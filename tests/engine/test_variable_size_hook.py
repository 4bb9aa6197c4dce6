from types import SimpleNamespace

import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner

from hybrid_mm.engine import VariableSizeHook

SIZES = (8, 12, 16)


def resize(images, iteration, seed=0):
    batch = dict(inputs=images)
    VariableSizeHook(SIZES).before_train_iter(SimpleNamespace(seed=seed, iter=iteration), 0, batch)
    return batch['inputs']


def test_all_sizes_come_about_equally_often():
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    shapes = [tuple(resize(images, i).shape) for i in range(300)]

    assert set(shapes) == {(1, 3, size, size) for size in SIZES}
    assert min(shapes.count(shape) for shape in set(shapes)) > 70


def test_sizes_depend_on_seed_and_iteration_alone():
    images = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    draws = [[resize(images, i, seed).shape for i in range(20)] for seed in (0, 0, 1)]

    assert draws[0] == draws[1] != draws[2]


def test_picture_stays_the_same_at_another_size():
    ramp = torch.arange(16.).expand(2, 3, 16, 16).mul(10).byte()
    smaller = next(out for i in range(50) if (out := resize(ramp, i)).shape[-1] == 8)

    torch.testing.assert_close(smaller[0, 0, 0, 1:-1].cpu(), torch.arange(25., 136., 20.), atol=2., rtol=0)


def test_batch_of_single_images_is_refused():
    with pytest.raises(ValueError, match='needs a batch in one tensor, not a list'):
        resize([torch.zeros(3, 16, 16)], 0)


@pytest.mark.parametrize('sizes', [(), (0, 224)])
def test_bad_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match='is not allowed; give one or more sizes in pixels'):
        VariableSizeHook(sizes)


class Model(BaseModel):

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.sizes = set()

    def forward(self, inputs, mode='tensor'):
        self.sizes.add(tuple(inputs.shape))
        return dict(loss=(inputs * self.weight).mean())


def test_model_trains_on_the_resized_batch(tmp_path):
    model = Model()
    runner = Runner(
        model=model,
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=[dict(inputs=torch.zeros(3, 16, 16, dtype=torch.uint8))] * 40,
            batch_size=2,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=True)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='hybrid_mm.VariableSizeHook', sizes=SIZES)],
        randomness=dict(seed=0),
        experiment_name='variable_size',
        log_level='WARNING')

    runner.train()

    assert model.sizes == {(2, 3, size, size) for size in SIZES}
