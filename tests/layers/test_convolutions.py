"""The inverted residual and the downsamplings against the formulae of the releases."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_mm.layers import ConvDownsampling, InvertedResidual, TwoBranchDownsampling


def randomise(module):
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)
    return module.double()


@pytest.mark.parametrize('pre_norm, parameters', [
    (False, 2 * 4 * 8 * 8 + (25 + 4) * 4 * 8 + 2 * 8),
    (True, 2 * 4 * 8 * 8 + 25 * 4 * 8 + 4 * 8),
])
def test_inverted_residual_has_the_parameters_of_its_release(pre_norm, parameters):
    layer = InvertedResidual(8, expansion=4, kernel_size=5, pre_norm=pre_norm)
    assert sum(p.numel() for p in layer.parameters()) == parameters


def test_inverted_residual_norms_stand_where_the_releases_have_them():
    def names(layer):
        return [type(m).__name__ for m in layer.modules() if not list(m.children())]

    assert names(InvertedResidual(8)) == [
        'Conv2d', 'BatchNorm2d', 'SiLU', 'DepthwiseConv2d', 'BatchNorm2d', 'SiLU', 'Conv2d', 'BatchNorm2d'
    ]
    assert names(InvertedResidual(8, pre_norm=True)) == [
        'BatchNorm2d', 'Conv2d', 'SiLU', 'DepthwiseConv2d', 'SiLU', 'Conv2d', 'BatchNorm2d'
    ]


def test_inverted_residual_is_a_depthwise_bottleneck():
    layer = randomise(InvertedResidual(4, expansion=2, kernel_size=3, norm_layer=lambda c: nn.GroupNorm(1, c)))
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    wide = F.silu(layer.expand[1](torch.einsum('oc,bchw->bohw', layer.expand[0].weight[:, :, 0, 0], x)))
    patches = F.unfold(wide, 3, padding=1).reshape(2, 8, 9, 5, 7)
    mixed = torch.einsum('ck,bckhw->bchw', layer.depthwise[0].weight.flatten(1), patches)
    mixed = F.silu(layer.depthwise[1](mixed))
    expected = layer.project[1](torch.einsum('oc,bchw->bohw', layer.project[0].weight[:, :, 0, 0], mixed))
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match='kernel_size=4 is not allowed; choose an odd number'):
        InvertedResidual(8, kernel_size=4)


@pytest.mark.parametrize('size', [(8, 8), (7, 10), (57, 1), (1, 1)], ids=str)
def test_both_branches_round_up_and_are_summed(size):
    layer = randomise(TwoBranchDownsampling(3, 5, lambda c: nn.GroupNorm(1, c)))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    out = layer(x)
    rows, cols = -(-size[0] // 2), -(-size[1] // 2)
    assert out.shape == (2, 5, rows, cols)
    blocks = torch.stack([
        torch.stack([x[:, :, 2 * r:2 * r + 2, 2 * c:2 * c + 2].amax((2, 3)) for c in range(cols)], -1)
        for r in range(rows)
    ], -2)
    expected = F.silu(layer.conv_norm(layer.conv(x)) + layer.pool_norm(layer.pool_conv(blocks)))
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('size', [(8, 8), (7, 10), (1, 1)], ids=str)
def test_conv_downsampling_rounds_up(size):
    out = ConvDownsampling(3, 5)(torch.randn(2, 3, *size))
    assert out.shape == (2, 5, -(-size[0] // 2), -(-size[1] // 2))
