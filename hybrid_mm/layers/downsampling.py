"""Layers that halve a map and widen it."""
from typing import Callable

from torch import Tensor, nn


class TwoBranchDownsampling(nn.Module):
    """A strided convolution beside max pooling, summed (TransCNN's TDB, arXiv 2106.03180).

    The pooled branch rounds up, so that both branches give ceil(n/2) positions for n. ``norm_layer`` makes a norm from a
    channel count.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H/2), ceil(W/2)).
    """

    def __init__(self, in_channels: int, out_channels: int, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.conv_norm = norm_layer(out_channels)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.pool_conv = nn.Conv2d(in_channels, out_channels, 1)
        self.pool_norm = norm_layer(out_channels)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        strided = self.conv_norm(self.conv(x))
        pooled = self.pool_norm(self.pool_conv(self.pool(x)))
        return self.act(strided + pooled)


class ConvDownsampling(nn.Module):
    """A strided 3x3 convolution and a norm (HAT-Net, arXiv 2106.03180 v3 and later).

    ``norm_layer`` makes a norm from a channel count.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H/2), ceil(W/2)).
    """

    def __init__(self, in_channels: int, out_channels: int, norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.norm = norm_layer(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))
