"""The convolution block that follows attention in TransCNN and HAT-Net (arXiv 2106.03180). This file needs torch alone."""
from typing import Callable

from torch import Tensor, nn


class InvertedResidual(nn.Module):
    """Widen with a 1x1 convolution, mix neighbours depthwise, narrow again; the caller adds the residual.

    Args:
        channels: C.
        expansion: width of the middle over C.
        kernel_size: side of the depthwise kernel, odd.
        norm_layer: makes a norm from a channel count.
        pre_norm: False, as released TransCNN: a norm after each of the three convolutions. True, as released HAT-Net: one
            norm in front and one at the end.

    Shape:
        (B, C, H, W) -> (B, C, H, W).

    Raises:
        ValueError: ``kernel_size`` is even or below 1.
    """

    def __init__(self,
                 channels: int,
                 expansion: int = 4,
                 kernel_size: int = 3,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
                 pre_norm: bool = False) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f'kernel_size={kernel_size} is not allowed; choose an odd number, 1 or more')
        wide = channels * expansion
        widen = nn.Conv2d(channels, wide, 1, bias=False)
        mix = nn.Conv2d(wide, wide, kernel_size, padding=kernel_size // 2, groups=wide, bias=False)
        narrow = nn.Conv2d(wide, channels, 1, bias=False)
        if pre_norm:
            self.expand = nn.Sequential(norm_layer(channels), widen, nn.SiLU())
            self.depthwise = nn.Sequential(mix, nn.SiLU())
        else:
            self.expand = nn.Sequential(widen, norm_layer(wide), nn.SiLU())
            self.depthwise = nn.Sequential(mix, norm_layer(wide), nn.SiLU())
        self.project = nn.Sequential(narrow, norm_layer(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.depthwise(self.expand(x)))
