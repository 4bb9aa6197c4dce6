"""ConvNeXt whose last blocks see the whole map through ParC (arXiv 2210.04020)."""
from typing import Callable, Optional, Sequence, Union

import torch
from torch import Tensor, nn

from hybrid_mm.layers import DropPath, LayerNorm2d, ParCHW
from hybrid_mm.layers.depthwise import DepthwiseConv2d
from hybrid_mm.registry import MODELS

from .base import BaseBackbone, parse_insert_locations


class ParCConvNeXtBlock(nn.Module):
    """ConvNeXt's block, with a depthwise 7x7 convolution or what is given in its place.

    Args:
        channels: C.
        norm_layer: makes a norm from a channel count.
        layer_scale_init_value: start of the factors of the residual branch; at 0 there are none.
        mixer: stands in the place of the depthwise convolution.
        drop_path_rate: stochastic depth rate.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self,
                 channels: int,
                 norm_layer: Callable[[int], nn.Module] = LayerNorm2d,
                 layer_scale_init_value: float = 1e-6,
                 mixer: Optional[nn.Module] = None,
                 drop_path_rate: float = 0.) -> None:
        super().__init__()
        self.dwconv = mixer or DepthwiseConv2d(channels, 7)
        self.norm = norm_layer(channels)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels, ), layer_scale_init_value)) if layer_scale_init_value else None
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)  # (B, C, H, W) -> (B, H, W, C)
        out = self.pwconv2(self.act(self.pwconv1(out)))
        if self.gamma is not None:
            out = self.gamma * out
        return self.drop_path.add(x, out.permute(0, 3, 1, 2))  # (B, H, W, C) -> (B, C, H, W)


@MODELS.register_module()
class ParCConvNeXt(BaseBackbone):
    """ParC-ConvNeXt, `Fast-ParC <https://arxiv.org/abs/2210.04020>`_.

    Official code: https://github.com/hkzhang91/ParC-Net, folder ParC_ConvNets. In the last third of stages 3 and 4 a depthwise
    ParC along H and one along W, each on half of the channels, replace the depthwise 7x7 convolution. Beyond the release, any
    image size runs: kernels and position embeddings are resized from the map of a 224 x 224 image. As in ConvNeXt, an image
    whose sides are no multiples of 32 loses up to 31 pixels at the right and bottom.

    Args:
        arch: xtiny, tiny, or a dict with the keys of such a row: one entry a stage for ``channels`` and ``depths``.
        insert_locations: for each stage, the index of the first block with ParC. ``()`` is ConvNeXt. By default the last
            third of stages 3 and 4.
        layer_scale_init_value: start of the factors of the residual branches; at 0 there are none.
        backend: how ParC is computed, see `hybrid_mm.layers.ParC2d`.
        norm_cfg: norm layer.
        out_norm: a norm on each output, as dense tasks need it; the release form has none.
        kwargs: see `BaseBackbone`.

    Raises:
        ValueError: an argument is outside of what is allowed.
    """

    # yapf: disable
    arch_settings = {
        'xtiny': dict(channels=(48,  96, 192, 384), depths=(3, 3, 9, 3)),
        'tiny':  dict(channels=(96, 192, 384, 768), depths=(3, 3, 9, 3)),
    }
    # yapf: enable

    def __init__(self,
                 arch: Union[str, dict] = 'xtiny',
                 insert_locations: Optional[Sequence[int]] = None,
                 layer_scale_init_value: float = 1e-6,
                 backend: str = 'auto',
                 norm_cfg: dict = dict(type='hybrid_mm.LN2d', eps=1e-6),
                 out_norm: bool = True,
                 **kwargs) -> None:
        super().__init__(arch, norm_cfg, out_norm=out_norm, **kwargs)
        channels = self.settings['channels']
        if insert_locations is None:
            insert_locations = (*self.depths[:2], *(2 * depth // 3 for depth in self.depths[2:]))
        locations = parse_insert_locations(insert_locations, self.depths)

        def downsample(i: int) -> nn.Module:
            return nn.Sequential(self.norm_layer(channels[i - 1]), nn.Conv2d(channels[i - 1], channels[i], 2, stride=2))

        def block(i: int, j: int, drop_path_rate: float) -> nn.Module:
            mixer = ParCHW(channels[i], 56 // 2**i, backend=backend) if j >= locations[i] else None
            return ParCConvNeXtBlock(channels[i], self.norm_layer, layer_scale_init_value, mixer, drop_path_rate)

        self.stem = nn.Sequential(nn.Conv2d(self.in_channels, channels[0], 4, stride=4), self.norm_layer(channels[0]))
        self.build_stages(block, downsample)
