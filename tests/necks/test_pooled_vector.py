import pytest
import torch
from mmengine.registry import MODELS
from torch.nn.functional import layer_norm

from hybrid_mm.necks import PooledVector


def test_pools_each_map_of_a_tuple_to_a_vector():
    maps = torch.rand(2, 8, 5, 7), torch.rand(2, 4, 3, 1)

    vectors = PooledVector()(maps)

    assert isinstance(vectors, tuple)
    for vector, x in zip(vectors, maps):
        torch.testing.assert_close(vector, x.flatten(2).mean(2))


def test_single_map_gives_a_single_vector():
    assert PooledVector()(torch.rand(1, 8, 2, 2)).shape == (1, 8)


def test_agrees_with_the_neck_of_mmpretrain():
    from mmpretrain.models import GlobalAveragePooling
    maps = (torch.rand(3, 8, 7, 7), )

    torch.testing.assert_close(PooledVector()(maps), GlobalAveragePooling()(maps))


def test_norm_is_over_the_channels_of_the_pooled_vector():
    neck = PooledVector(8, norm_cfg=dict(type='LN', eps=1e-6)).double()
    torch.nn.init.normal_(neck.norm.weight)
    torch.nn.init.normal_(neck.norm.bias)
    x = torch.rand(2, 8, 5, 7, dtype=torch.float64)

    expected = layer_norm(x.mean((2, 3)), (8, ), neck.norm.weight, neck.norm.bias, eps=1e-6)

    torch.testing.assert_close(neck((x, ))[0], expected)
    assert [name for name, _ in neck.named_parameters()] == ['norm.weight', 'norm.bias']


def test_drops_features_in_training_alone():
    neck = PooledVector(dropout=0.2)
    x = torch.ones(100, 100, 2, 2)
    torch.manual_seed(0)

    trained, tested = neck.train()(x), neck.eval()(x)

    assert set(trained.unique().tolist()) == {0., 1.25}
    assert (trained == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert (tested == 1).all()


@pytest.mark.parametrize('dropout', [-0.1, 1., 2])
def test_bad_dropout_is_refused(dropout):
    with pytest.raises(ValueError, match=f'dropout={dropout} is not allowed; choose from 0 to below 1'):
        PooledVector(dropout=dropout)


def test_norm_without_channels_is_refused():
    with pytest.raises(ValueError, match='needs in_channels'):
        PooledVector(norm_cfg=dict(type='LN'))


def test_is_found_by_its_name_in_a_config():
    assert isinstance(MODELS.build(dict(type='hybrid_mm.PooledVector', in_channels=8)), PooledVector)
