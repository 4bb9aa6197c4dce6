"""Convolution blocks that widen, mix neighbours and narrow again."""
from typing import Callable, Optional

from torch import Tensor, nn

from .depthwise import DepthwiseConv2d
from .norm_act_conv import IDENTITY, keeps_all, norm_act_conv


class InvertedResidual(nn.Module):
    """The block behind attention in TransCNN and HAT-Net (arXiv 2106.03180): widen with a 1x1 convolution, mix neighbours
    depthwise, narrow again; the caller adds the residual.

    Args:
        expansion: width of the middle over C, the channels.
        kernel_size: side of the depthwise kernel, odd.
        norm_layer: makes a norm from a channel count.
        pre_norm: False, as released TransCNN: a norm after each of the three convolutions. True, as released HAT-Net: one
            norm in front and one at the end.

    Shape:
        (B, C, H, W) -> (B, C, H, W).

    Raises:
        ValueError: ``kernel_size`` is even or below 1.
    """

    def __init__(self, channels: int, expansion: int = 4, kernel_size: int = 3,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d, pre_norm: bool = False) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        wide = channels * expansion
        widen = nn.Conv2d(channels, wide, 1, bias=False)
        mix = DepthwiseConv2d(wide, kernel_size, bias=False)
        narrow = nn.Conv2d(wide, channels, 1, bias=False)
        if pre_norm:
            self.expand = nn.Sequential(norm_layer(channels), widen, nn.SiLU())
            self.depthwise = nn.Sequential(mix, nn.SiLU())
        else:
            self.expand = nn.Sequential(widen, norm_layer(wide), nn.SiLU())
            self.depthwise = nn.Sequential(mix, norm_layer(wide), nn.SiLU())
        self.project = nn.Sequential(narrow, norm_layer(channels))

    def forward(self, x: Tensor) -> Tensor:
        if keeps_all(self.expand, self.depthwise, self.project):
            return self.project(self.depthwise(self.expand(x)))
        narrow, norm = self.project
        if self.pre_norm:
            (norm_1, widen, act_1), (mix, act_2) = self.expand, self.depthwise
            x = norm_act_conv(norm_act_conv(x, norm_1, IDENTITY, widen), IDENTITY, act_1, mix)
            return norm(norm_act_conv(x, IDENTITY, act_2, narrow))
        (widen, norm_1, act_1), (mix, norm_2, act_2) = self.expand, self.depthwise
        return norm(norm_act_conv(norm_act_conv(widen(x), norm_1, act_1, mix), norm_2, act_2, narrow))


class MobileInvertedResidual(nn.Module):
    """MobileNetV2's block: widen with a 1x1 convolution, mix positions channel by channel, narrow without activation.

    Args:
        expansion: width of the middle over ``in_channels``; at 1 there is no widening convolution.
        stride: 1 or 2. At 1 with as many channels out as in, the input is added.
        norm_layer: makes a norm from a channel count.
        act_layer: makes an activation; ReLU6 in MobileNetV2, SiLU in MobileViT and ParC-Net.
        mixer: what mixes positions, in the place of a depthwise 3x3 convolution; it keeps the shape of the widened map.
        drop_path: what drops the residual branch in training.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, ceil(H/stride), ceil(W/stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int = 1,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d, act_layer: Callable[[], nn.Module] = nn.ReLU6,
                 mixer: Optional[nn.Module] = None, drop_path: Optional[nn.Module] = None) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.adds_input = stride == 1 and in_channels == out_channels
        self.expand = nn.Identity() if expansion <= 1 else nn.Sequential(
            nn.Conv2d(in_channels, wide, 1, bias=False), norm_layer(wide), act_layer())
        if mixer is None:
            mixer = nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False)
        self.depthwise = nn.Sequential(mixer, norm_layer(wide), act_layer())
        self.project = nn.Sequential(nn.Conv2d(wide, out_channels, 1, bias=False), norm_layer(out_channels))
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.expand, nn.Identity) or keeps_all(self.expand, self.depthwise, self.project):
            out = self.project(self.depthwise(self.expand(x)))
        else:
            (widen, norm_1, act_1), (mix, norm_2, act_2), (narrow, norm_3) = self.expand, self.depthwise, self.project
            out = norm_3(norm_act_conv(norm_act_conv(widen(x), norm_1, act_1, mix), norm_2, act_2, narrow))
        return x + self.drop_path(out) if self.adds_input else out
