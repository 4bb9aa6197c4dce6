"""`DropPath`, and mmcv's as the definition of what it draws."""
import pytest
import torch
from torch import nn

from hybrid_mm.layers import DropPath


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_equals_mmcvs_at_the_same_seed(dtype):
    bricks = pytest.importorskip('mmcv.cnn.bricks')
    x = torch.rand(64, 3, 2, 2, dtype=dtype)
    torch.manual_seed(0)
    expected = bricks.DropPath(0.3)(x)
    torch.manual_seed(0)
    assert torch.equal(DropPath(0.3)(x), expected)


@pytest.mark.parametrize('shape', [(400, 2, 3, 4), (400, 5, 2), (400, 2)])
def test_drops_whole_samples_and_divides_the_rest_by_the_share_that_is_kept(shape):
    torch.manual_seed(0)
    x = torch.rand(shape, requires_grad=True)
    out = DropPath(0.25)(x)
    kept = (out != 0).flatten(1).any(1)
    assert 0.6 < kept.float().mean() < 0.9
    torch.testing.assert_close(out[kept], x[kept] / 0.75)
    assert not out[~kept].any()
    out.sum().backward()
    torch.testing.assert_close(x.grad.flatten(1), kept[:, None].float().expand_as(x.grad.flatten(1)) / 0.75)


def test_evaluation_and_a_rate_of_0_change_nothing():
    x = torch.rand(8, 3)
    assert DropPath(0.9).eval()(x) is x
    assert DropPath(0.)(x) is x


def test_takes_an_empty_batch():
    assert DropPath(0.5)(torch.rand(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_compiles_whole():
    layer = nn.Sequential(nn.Linear(3, 3), DropPath(0.5))
    out = torch.compile(layer, fullgraph=True, backend='eager')(torch.rand(8, 3))
    assert out.shape == (8, 3)


@pytest.mark.parametrize('rate', [-0.1, 1, 1.5])
def test_refuses_rates_that_keep_nothing_or_more_than_all(rate):
    with pytest.raises(ValueError, match=f'drop_prob={rate} is not allowed; choose a number from 0 to below 1'):
        DropPath(rate)


def test_adding_is_one_operation_with_the_same_pictures():
    x, branch = torch.rand(64, 3, 2, 2, dtype=torch.float64), torch.rand(64, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    layer = DropPath(0.3)
    torch.manual_seed(0)
    expected = x + layer(branch)
    torch.manual_seed(0)
    out = layer.add(x, branch)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    assert 'Addcmul' in out.grad_fn.name()
    gradients = [torch.autograd.grad(o.square().sum(), branch)[0] for o in (out, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    layer.add(x, branch)
    assert seen and torch.equal(layer.eval().add(x, branch), x + branch)
