"""MobileNetV2 whose later blocks see the whole map through ParC (arXiv 2210.04020)."""
from functools import partial
from typing import Callable, Sequence

from torch import nn

from hybrid_mm.layers import DropPath, MobileInvertedResidual, ParCHW
from hybrid_mm.registry import MODELS

from .base import BaseBackbone, parse_insert_locations


@MODELS.register_module()
class ParCMobileNetV2(BaseBackbone):
    """ParC-MobileNetV2, `Fast-ParC <https://arxiv.org/abs/2210.04020>`_.

    Official code: https://github.com/hkzhang91/ParC-Net, folder ParC_ConvNets. In some blocks a depthwise ParC along H and one
    along W, each on half of the widened channels, replace the depthwise 3x3 convolution; the first such block of a row has
    position embeddings. The maps are the authors' taps: rows 2, 3 and 5 and the last 1x1 convolution, 24, 32, 96 and 1280
    channels. Beyond the release, any image size runs: kernels and position embeddings are resized from the map of a 224 x 224
    image.

    Args:
        widen_factor: all widths over those of the published network, above 0; the last convolution does not get narrower.
        insert_locations: for each of the seven rows, the index of the first block with ParC; blocks that halve the map keep
            their convolution. ``()`` is MobileNetV2.
        backend: how ParC is computed, see `hybrid_mm.layers.ParC2d`.
        norm_cfg: norm layer.
        kwargs: see `BaseBackbone`.

    Raises:
        ValueError: an argument is outside of what is allowed.
    """

    # one entry a row, as in the paper on MobileNetV2, Table 2; base sizes are those of the maps at 224 x 224
    rows = dict(
        expansions=(1, 6, 6, 6, 6, 6, 6),
        channels=(16, 24, 32, 64, 96, 160, 320),
        depths=(1, 2, 3, 4, 3, 3, 1),
        strides=(1, 2, 2, 2, 1, 2, 1),
        base_sizes=(112, 56, 28, 14, 14, 7, 7))
    arch_settings = {1.0: dict(depths=(2, 3, 7, 5))}  # blocks of a stage; the last of stage 4 is the 1x1 convolution
    arch_name = 'widen_factor'
    default_init_cfg = dict(type='Kaiming', layer=['Conv2d', 'ParC2d'], mode='fan_out')

    def __init__(self,
                 widen_factor: float = 1.0,
                 insert_locations: Sequence[int] = (1, 2, 3, 2, 2, 2, 1),
                 backend: str = 'auto',
                 norm_cfg: dict = dict(type='BN'),
                 **kwargs) -> None:
        if not widen_factor > 0:
            raise ValueError(f'widen_factor={widen_factor} is not allowed; choose a number above 0')
        super().__init__(self.arch_settings[1.0], norm_cfg, **kwargs)
        rows = self.rows
        locations = parse_insert_locations(insert_locations, rows['depths'])
        rates = iter([0., *(rate for stage in self.drop_path_rates() for rate in stage)])

        in_channels = _multiple_of_8(32 * widen_factor)
        self.stem = nn.Sequential(conv_norm_act(self.in_channels, in_channels, 3, self.norm_layer, stride=2))
        self.downsamples = nn.ModuleList(nn.Identity() for _ in self.depths)  # the first block of a stage halves the map
        self.stages = nn.ModuleList(nn.ModuleList() for _ in self.depths)
        channels = []
        for row, parts in enumerate((self.stem, *(self.stages[i] for i in (0, 1, 2, 2, 3, 3)))):
            out_channels = _multiple_of_8(rows['channels'][row] * widen_factor)
            for j in range(rows['depths'][row]):
                stride = rows['strides'][row] if j == 0 else 1
                expansion, rate = rows['expansions'][row], next(rates)
                mixer = None
                if j >= locations[row] and stride == 1:
                    mixer = ParCHW(
                        in_channels * expansion, rows['base_sizes'][row], pos_embed=j == locations[row], backend=backend)
                parts.append(
                    MobileInvertedResidual(
                        in_channels, out_channels, expansion, stride, self.norm_layer, mixer=mixer, drop_path=DropPath(rate)))
                in_channels = out_channels
            channels.append(out_channels)
        last = _multiple_of_8(1280 * max(widen_factor, 1.))
        self.stages[3].append(conv_norm_act(in_channels, last, 1, self.norm_layer))
        self.stage_channels = channels[1], channels[2], channels[4], last


def conv_norm_act(in_channels: int,
                  out_channels: int,
                  kernel_size: int,
                  norm_layer: Callable[[int], nn.Module],
                  act_layer: Callable[[], nn.Module] = partial(nn.ReLU6, inplace=True),
                  stride: int = 1,
                  groups: int = 1) -> nn.Sequential:
    """Convolution, norm, activation: (B, in_channels, H, W) -> (B, out_channels, ceil(H/stride), ceil(W/stride))."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, norm_layer(out_channels), act_layer())


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8 that is not more than 10 % below, as every MobileNet rounds its widths."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
