"""The layers that attend in windows, and one of each other layer, for the tests of what all of them keep."""
from contextlib import nullcontext

import torch
from torch import nn

from hybrid_mm.layers import (
    HMHSA,
    ConvDownsampling,
    DropPath,
    GlobalLocal,
    GlobalLocalBlock,
    InvertedResidual,
    IterativeHMHSA,
    LayerNorm2d,
    MobileInvertedResidual,
    MobileViTBlock,
    SelfOptimalTransport2d,
    TwoBranchDownsampling,
)


def group_norm(channels):
    return nn.GroupNorm(1, channels)


# (channels, layer of a norm): windows of two positions a side, or sets of four
WINDOWS = {
    'h_mhsa': (2, lambda norm: HMHSA(2, head_dim=1, grid_size=2, pool_ratio=64, norm_layer=norm)),
    'global': (2, lambda norm: HMHSA(2, head_dim=1, grid_size=1, norm_layer=norm)),
    'iterative': (2, lambda norm: IterativeHMHSA(2, head_dim=1, grid_sizes=(2, 2), norm_layer=norm)),
    'global_local': (3, lambda norm: GlobalLocal(3, 3, 2, 1, 3, 1, window_size=2, norm_layer=norm)),
    'global_local_global': (3, lambda norm: GlobalLocal(3, 3, 2, 1, 3, 1, 2, attend_globally=True, norm_layer=norm)),
    'mobile_vit': (2, lambda norm: MobileViTBlock(2, 8, 1, num_heads=2, norm_layer=norm)),
}
LAYERS = dict(WINDOWS, **{
    'global_local_block': (6, lambda norm: GlobalLocalBlock(GlobalLocal(6, 3, 1, 2, 3, 1, norm_layer=norm), 6, 2, DropPath())),
    'transport': (8, lambda norm: SelfOptimalTransport2d(8, 4, 4)),
    'transport_nystrom': (8, lambda norm: SelfOptimalTransport2d(8, 4, 4, nystrom=True, eps=0.01)),
    'transport_in_blocks': (8, lambda norm: SelfOptimalTransport2d(8, 4, 4, eps=0.1, backend='blocks')),
    'inverted_residual': (4, lambda norm: InvertedResidual(4, norm_layer=norm)),
    'mobile_inverted_residual': (4, lambda norm: MobileInvertedResidual(4, 4, 2, norm_layer=norm, drop_path=DropPath())),
    'two_branch_downsampling': (4, lambda norm: TwoBranchDownsampling(4, 6, norm_layer=norm)),
    'conv_downsampling': (4, lambda norm: ConvDownsampling(4, 6, norm_layer=norm)),
    'layer_norm': (4, lambda norm: LayerNorm2d(4)),
})

# of the outputs, thrice as much of the gradients, where weights and input are rounded alike on both sides
TOLERANCES = {'float32': 1e-4, 'float16': 5e-3, 'bfloat16': 3e-2, 'autocast float16': 5e-3, 'autocast bfloat16': 3e-2}


def build(name, norm=group_norm, dtype=torch.float64):
    """Number of channels, and the layer with weights of the order of 1."""
    torch.manual_seed(0)
    channels, make = LAYERS[name]
    layer = make(norm).to(dtype)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return channels, layer


def outputs_and_gradients(layer, x, autocast=nullcontext()):
    """Output, and gradients of input and parameters for a fixed cotangent, the same number in every precision."""
    x = x.clone().requires_grad_()
    with autocast:
        out = layer(x)
    cotangent = (torch.arange(out.numel(), device=out.device) % 5 - 2).to(out.dtype).view(out.shape)
    return [out, *torch.autograd.grad(out, [x, *layer.parameters()], cotangent)]


def error(ours, theirs):
    """The difference of two lists of tensors as a share of the length of the second."""
    ours, theirs = (torch.cat([tensor.detach().cpu().double().flatten() for tensor in tensors]) for tensors in (ours, theirs))
    return ((ours - theirs).norm() / theirs.norm()).item()


def assert_precise(ours, expected, form):
    """What `outputs_and_gradients` gave in one of the `TOLERANCES` and in float64."""
    assert all(tensor.isfinite().all() for tensor in ours)
    assert error(ours[:1], expected[:1]) <= TOLERANCES[form]
    assert error(ours[1:2], expected[1:2]) <= 3 * TOLERANCES[form]  # of the input
    assert error(ours[2:], expected[2:]) <= 3 * TOLERANCES[form]  # of the parameters
