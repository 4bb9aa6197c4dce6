"""ResNet whose last blocks see the whole map through ParC (arXiv 2210.04020)."""
from typing import Callable, Optional, Sequence, Union

import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_mm.layers import DropPath, ParCHW
from hybrid_mm.registry import MODELS

from .base import BaseBackbone, parse_insert_locations


class ParCBottleneck(nn.Module):
    """ResNet's bottleneck, with a 3x3 convolution or what is given in its place.

    Args:
        in_channels: channels of the input.
        width: channels between the 1x1 convolutions; a quarter of the output's.
        stride: 1 or 2, of the 3x3 convolution.
        norm_layer: makes a norm from a channel count.
        mixer: stands in the place of the 3x3 convolution.
        drop_path_rate: stochastic depth rate.

    Shape:
        (B, in_channels, H, W) -> (B, 4 * width, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(self,
                 in_channels: int,
                 width: int,
                 stride: int = 1,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
                 mixer: Optional[nn.Module] = None,
                 drop_path_rate: float = 0.) -> None:
        super().__init__()
        out_channels = 4 * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.norm1 = norm_layer(width)
        self.conv2 = mixer or nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.norm2 = norm_layer(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.norm3 = norm_layer(out_channels)
        self.shortcut = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), norm_layer(out_channels))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(self.conv1(x)), inplace=True)
        out = F.relu(self.norm2(self.conv2(out)), inplace=True)
        out = self.drop_path(self.norm3(self.conv3(out)))
        return F.relu(out + self.shortcut(x), inplace=True)


@MODELS.register_module()
class ParCResNet(BaseBackbone):
    """ParC-ResNet50, `Fast-ParC <https://arxiv.org/abs/2210.04020>`_.

    Official code: https://github.com/hkzhang91/ParC-Net, folder ParC_ConvNets. In the last blocks of stages 3 and 4 a dense
    ParC along H and one along W, each on half of the channels, replace the dense 3x3 convolution. Beyond the release, any
    image size runs: kernels and position embeddings are resized from the map of a 224 x 224 image.

    Args:
        depth: 50, or a dict with ``depths``, one entry a stage.
        insert_locations: for each stage, the index of the first block with ParC; the block that halves the map keeps its
            convolution. ``()`` is ResNet-50.
        backend: how ParC is computed, see `hybrid_mm.layers.ParC2d`.
        norm_cfg: norm layer.
        kwargs: see `BaseBackbone`.

    Raises:
        ValueError: an argument is outside of what is allowed.
    """

    arch_settings = {50: dict(depths=(3, 4, 6, 3))}
    arch_name = 'depth'
    # The release leaves the biases of ParC at PyTorch's default; a norm follows, so that they start at 0 here.
    default_init_cfg = dict(type='Kaiming', layer=['Conv2d', 'ParC2d'], mode='fan_out')

    def __init__(self,
                 depth: Union[int, dict] = 50,
                 insert_locations: Sequence[int] = (3, 4, 3, 2),
                 backend: str = 'auto',
                 norm_cfg: dict = dict(type='BN'),
                 **kwargs) -> None:
        super().__init__(depth, norm_cfg, **kwargs)
        locations = parse_insert_locations(insert_locations, self.depths)

        self.stage_channels = channels = [256 * 2**i for i in range(len(self.depths))]

        def block(i: int, j: int, drop_path_rate: float) -> nn.Module:
            halves = i > 0 and j == 0
            in_channels = channels[i] if j else channels[i - 1] if i else 64
            width, mixer = channels[i] // 4, None
            if j >= locations[i] and not halves:
                mixer = ParCHW(width, 56 // 2**i, depthwise=False, backend=backend)
            return ParCBottleneck(in_channels, width, 2 if halves else 1, self.norm_layer, mixer, drop_path_rate)

        self.stem = nn.Sequential(
            nn.Conv2d(self.in_channels, 64, 7, stride=2, padding=3, bias=False), self.norm_layer(64), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1))
        self.build_stages(block)  # without downsamplings: the first block of a stage halves the map
