"""The global-local module of GLiT, arXiv 2107.02960: self-attention and a gated 1-D convolution on groups of channels.

The channels of a block are three groups. The first G of them attend to all tokens, the last L are convolved along the sequence
of tokens, G + L = 3, and nothing mixes the two parts; that is left to the MLP. `GlobalLocal` is this operator,
`GlobalLocalBlock` the transformer block around it.

On a map (B, C, H, W), for dense prediction, the convolution runs along windows of 14 x 14 positions, each read row by row. At
224 x 224 pixels, the size of pre-training, the whole map is one such window, so that a tap of the kernel stands for the same
neighbour, above, below or beside, at every size of the image. Along the raw sequence of a wider map it would not.
"""
from collections import OrderedDict
from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend_among, check_at_least_one
from .depthwise import depthwise_conv2d
from .h_mhsa import grid_attention, window_partition, window_unpartition


class GlobalLocal(nn.Module):
    """Self-attention on the first channels, a gated 1-D convolution on the last ones.

    .. code-block:: text

        C_v, C_c = C G / (G + L), C L / (G + L)
        out = concat(attention(x[:C_v]), convolution(x[-C_c:]))     over channels

    On tokens (B, N, C) both parts work on the whole sequence, in it a class token or not: the arithmetic of the release. On a
    map (B, C, H, W) the convolution works in windows, and attention too unless ``attend_globally``.

    Args:
        channels: C, a multiple of G + L.
        num_heads: attention heads of all channels, a divisor of C; the attention part has its share G / (G + L) of them.
        global_groups: G; at 0 there is no attention.
        local_groups: L; at 0 there is no convolution.
        kernel_size: K of the convolution, odd.
        expansion: E, channels inside the convolution over C_c.
        qk_ratio: channels of queries, keys and values over C_v, the paper's d_k.
        window_size: side of the windows of a map, in positions.
        attend_globally: on a map, attention reaches all positions instead of those in its window.
        norm_layer: makes the norm inside the convolution from a channel count, for maps (B, C, H, W).

    Shape:
        (B, C, H, W) -> (B, C, H, W), channels_last; (B, N, C) -> (B, N, C).

    Raises:
        ValueError: an argument is outside of what is allowed. Those of an absent part do not count.
    """

    def __init__(self, channels: int, num_heads: int, global_groups: int, local_groups: int,
                 kernel_size: Optional[int] = 31, expansion: Optional[float] = 4, qk_ratio: Optional[float] = 1,
                 window_size: int = 14, attend_globally: bool = False,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        groups = global_groups + local_groups
        if min(global_groups, local_groups) < 0 or groups < 1:
            raise ValueError(f'global_groups={global_groups} and local_groups={local_groups} are not allowed; choose 0 or '
                             'more, and not 0 for both')
        if channels < 1 or channels % groups:
            raise ValueError(f'channels={channels} is no multiple of the {groups} groups; choose one')
        check_at_least_one(window_size=window_size)
        self.global_channels = channels * global_groups // groups
        self.local_channels = channels * local_groups // groups

        self.attn = self.conv = None
        if global_groups:
            if num_heads < 1 or channels % num_heads or num_heads * global_groups % groups:
                raise ValueError(f'num_heads={num_heads} is not allowed; choose a divisor of channels={channels} of which '
                                 f'{global_groups} of {groups} groups make a whole number')
            heads = num_heads * global_groups // groups
            self.attn = SelfAttention(self.global_channels, heads, qk_ratio, None if attend_globally else window_size)
        if local_groups:
            self.conv = GatedConv(self.local_channels, kernel_size, expansion, window_size, norm_layer)

    def forward(self, x: Tensor) -> Tensor:
        parts = []
        axis = 1 if x.ndim == 4 else 2
        if self.attn is not None:
            parts.append(on_channels(self.attn, x.narrow(axis, 0, self.global_channels)))
        if self.conv is not None:
            parts.append(on_channels(self.conv, x.narrow(axis, self.global_channels, self.local_channels)))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=axis)

    def extra_repr(self) -> str:
        return f'global_channels={self.global_channels}, local_channels={self.local_channels}'


class GlobalLocalBlock(nn.Module):
    """A transformer block, norms first, with `GlobalLocal` in the place of attention.

    .. code-block:: text

        x   = x + drop_path(mixer(norm1(x)))
        out = x + drop_path(mlp(norm2(x)))

    Args:
        mixer: the global-local module, or another one between the same shapes.
        mlp_ratio: hidden channels of the MLP over C, the channels; the paper's d_z.
        drop_path: what drops both branches in training.

    Shape:
        (B, C, H, W) -> (B, C, H, W); (B, N, C) -> (B, N, C).

    Raises:
        ValueError: ``mlp_ratio`` times ``channels`` is no whole number above 0.
    """

    def __init__(self, mixer: nn.Module, channels: int, mlp_ratio: float, drop_path: Optional[nn.Module] = None) -> None:
        super().__init__()
        hidden = _whole_width('mlp_ratio', mlp_ratio, channels)
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(channels, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, channels)))
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.mixer(on_channels(self.norm1, x)))
        return x + self.drop_path(on_channels(self.mlp, on_channels(self.norm2, x)))


class SelfAttention(nn.Module):
    """Multi-head self-attention of tokens (B, N, C), or of a map (B, H, W, C) in windows; to the same shape.

    Each head has ``qk_ratio * C / num_heads`` channels, of the values too. Without a ``window_size`` all positions of a map
    attend to all, as tokens do. A window that reaches over the edge of the map has padded positions. They are no keys: a
    position attends to those positions of its window that lie on the map. That is a choice; ViTDet, which pads likewise, lets
    them take part.
    """

    def __init__(self, channels: int, num_heads: int, qk_ratio: Optional[float], window_size: Optional[int]) -> None:
        super().__init__()
        width = num_heads * _whole_width('qk_ratio', qk_ratio, channels // num_heads, 'channels of a head')
        self.num_heads = num_heads
        self.window_size = window_size
        self.qkv = nn.Linear(channels, 3 * width)
        self.proj = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        if x.ndim == 4 and self.window_size is not None:
            out = grid_attention(qkv.permute(0, 3, 1, 2), self.num_heads, self.window_size).permute(0, 2, 3, 1)
        else:
            out = attend_among(qkv.flatten(1, -2), self.num_heads).unflatten(1, x.shape[1:-1])
        return self.proj(out)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, window_size={self.window_size}'


class GatedConv(nn.Module):
    """A gated depthwise 1-D convolution along tokens (B, N, C), or along windows of a map (B, H, W, C); to the same shape.

    .. code-block:: text

        a, b = split(conv1x1(x))
        y    = depthwise convolution of a * sigmoid(b), zeros around it        E C channels
        out  = conv1x1(silu(norm(y)))

    A window is read row by row. A map smaller than one is one window of the full size all the same: the length of a row says
    which taps of the kernel lie above and below. Windows are cut behind the gate: the positions that fill the windows at the
    right and bottom edge up are zero, as they would not be behind the bias of the first convolution. They are cut off again
    in front of the norm, so that its statistics are those of the positions of the map.
    """

    def __init__(self, channels: int, kernel_size: Optional[int], expansion: Optional[float], window_size: int,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f'kernel_size={kernel_size} is not allowed; choose an odd number, such as 31')
        width = _whole_width('expansion', expansion, channels)
        self.window_size = window_size
        self.expand = PointwiseConv1d(channels, 2 * width)
        self.depthwise = DepthwiseConv1d(width, kernel_size)
        self.norm = norm_layer(width)
        self.project = PointwiseConv1d(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = F.glu(self.expand(x), dim=-1)
        if x.ndim == 3:
            y = self.depthwise(y)[:, :, None]  # the norm is one for maps: tokens are a map of width 1
        else:
            grid = self.window_size, self.window_size
            windows = window_partition(y, grid)  # (B, windows, tokens of a window, E C)
            y = window_unpartition(self.depthwise(windows.flatten(0, 1)).view(windows.shape), grid, *x.shape[1:3])
        y = self.norm(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.project(F.silu(y if x.ndim == 4 else y[:, :, 0]))

    def extra_repr(self) -> str:
        return f'window_size={self.window_size}'


class PointwiseConv1d(nn.Conv1d):
    """A 1x1 ``nn.Conv1d`` for channels in the last axis, where it is a matrix product: (..., C_in) -> (..., C_out)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight[:, :, 0], self.bias)


class DepthwiseConv1d(nn.Conv1d):
    """A depthwise ``nn.Conv1d`` with zeros around the sequence, for channels in the last axis: (B, N, C) -> (B, N, C).

    It runs as a 2-D convolution on one row in channels_last, for which PyTorch's CPU library has a kernel that the 1-D one
    lacks: 20 to 25 times as fast at the sizes of GLiT. The gradient of its weights is that of one column, 5 times as fast.
    """

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        row = x[:, None].permute(0, 3, 1, 2)  # (B, N, C) -> (B, C, 1, N), a view
        row = depthwise_conv2d(row, self.weight[:, :, None], self.bias)
        return row.permute(0, 2, 3, 1)[:, 0].contiguous()


def on_channels(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer that has its channels in the last axis: to tokens (B, N, C) as they are, to a map (B, C, H, W) by views."""
    return layer(x) if x.ndim == 3 else layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _whole_width(name: str, ratio: Optional[float], width: int, of: str = 'channels') -> int:
    """``ratio * width``, which has to be a whole number above 0."""
    if not isinstance(ratio, (int, float)) or ratio <= 0 or (ratio * width) % 1:
        raise ValueError(f'{name}={ratio} is not allowed; choose a number above 0 of which the {width} {of} make a whole number')
    return int(ratio * width)
