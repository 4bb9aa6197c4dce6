"""HAT-Net: TransCNN's successor, with GroupNorm and plain strided convolutions (arXiv 2106.03180 v3 and later)."""
from typing import Union

from torch import nn

from hybrid_mm.layers import HMHSA, ConvDownsampling, InvertedResidual
from hybrid_mm.registry import MODELS

from .base import BaseBackbone
from .transcnn import TransCNNBlock, conv_stem


@MODELS.register_module()
class HATNet(BaseBackbone):
    """HAT-Net, `Vision Transformers with Hierarchical Attention <https://arxiv.org/abs/2106.03180>`_.

    Official code: https://github.com/yun-liu/HAT-Net. Beyond the release, any image size runs: grids at the edge of a map
    may be cut, pools round up. The default norm takes its statistics over the whole map, so that padding of a batch to one
    size changes the features a little.

    Args:
        arch: tiny, small, medium, large, or a dict with the keys of such a row: one entry a stage for ``channels``,
            ``depths``, ``expansions`` and ``kernel_sizes`` of the inverted residual, ``grid_sizes`` and ``pool_ratios`` of
            H-MHSA, and ``head_dim``, the channels of one attention head.
        norm_cfg: norm layer.
        kwargs: see `BaseBackbone`.
    """

    _grids = dict(grid_sizes=(8, 7, 7, 1), pool_ratios=(8, 4, 2, 1), expansions=(8, 8, 4, 4))
    # yapf: disable
    arch_settings = {
        'tiny':   dict(channels=(48,  96, 240, 384), head_dim=48, depths=(2, 2,  6, 3), kernel_sizes=(3, 3, 3, 3), **_grids),
        'small':  dict(channels=(64, 128, 320, 512), head_dim=64, depths=(2, 3,  8, 3), kernel_sizes=(3, 3, 3, 3), **_grids),
        'medium': dict(channels=(64, 128, 320, 512), head_dim=64, depths=(3, 6, 18, 3), kernel_sizes=(5, 3, 5, 3), **_grids),
        'large':  dict(channels=(64, 128, 320, 640), head_dim=64, depths=(3, 8, 27, 3), kernel_sizes=(3, 3, 3, 3), **_grids),
    }
    # yapf: enable

    def __init__(self,
                 arch: Union[str, dict] = 'small',
                 norm_cfg: dict = dict(type='GN', num_groups=1, eps=1e-6),
                 **kwargs) -> None:
        super().__init__(arch, norm_cfg, **kwargs)
        s = self.settings
        channels = s['channels']

        def downsample(i: int) -> nn.Module:
            return ConvDownsampling(channels[i - 1], channels[i], self.norm_layer)

        def block(i: int, j: int, drop_path_rate: float) -> nn.Module:
            attn = HMHSA(channels[i], s['head_dim'], s['grid_sizes'][i], s['pool_ratios'][i], self.norm_layer)
            # The release has a norm here that it never applies. Its weights are in the files and in the published
            # parameter counts; without gradient, distributed training does not wait for one.
            attn.proj_norm = self.norm_layer(channels[i]).requires_grad_(False)
            irb = InvertedResidual(channels[i], s['expansions'][i], s['kernel_sizes'][i], self.norm_layer, pre_norm=True)
            return TransCNNBlock(attn, irb, drop_path_rate)

        self.stem = conv_stem(self.in_channels, channels[0], self.norm_layer)
        self.build_stages(block, downsample)
