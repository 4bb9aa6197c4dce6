"""MobileViT's block: a transformer over the patches of a map, between convolutions (arXiv 2110.02178)."""
from typing import Callable, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend_among
from .tracing import is_symbolic


class TransformerLayer(nn.Module):
    """Pre-norm multi-head self-attention and MLP among the N tokens of each of P sets: (B, P, N, C) -> (B, P, N, C)."""

    def __init__(self, channels: int, num_heads: int, mlp_ratio: int = 2, dropout: float = 0.,
                 drop_path: Optional[nn.Module] = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, channels * mlp_ratio), nn.SiLU(), nn.Linear(channels * mlp_ratio, channels))
        self.dropout = nn.Dropout(dropout)
        self.drop_path = drop_path or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        sets = self.qkv(self.norm1(x)).flatten(0, 1)  # the fused kernels take four dimensions, with the heads
        attended = attend_among(sets, self.num_heads).view(x.shape)
        x = x + self.drop_path(self.dropout(self.proj(attended)))
        return x + self.drop_path(self.dropout(self.mlp(self.norm2(x))))


class MobileViTBlock(nn.Module):
    """MobileViT's block: local convolutions, a transformer across patches, and a fusion with the input.

    .. code-block:: text

        t   = conv1x1(act(norm(conv3x3(x))))                           C to width
        t   = norm(transformer layers(t))                              between equal positions of all patches
        out = act(norm(conv3x3(concat(x, act(norm(conv1x1(t)))))))     width to C, then 2C to C

    A map whose sides are no multiples of ``patch_size`` is resized to the next ones for the transformer and back behind it
    (bilinear), as mmpretrain's MobileViT does.

    Args:
        channels: C.
        width: channels of the transformer, a multiple of ``num_heads``.
        depth: number of transformer layers.
        mlp_ratio: width of the MLP over ``width``.
        patch_size: side of a patch in positions.
        dropout: rate behind attention and behind the MLP.
        norm_layer: makes a norm from a channel count; the transformer has LayerNorm.
        drop_path: what drops the residual branches of the transformer in training.

    Shape:
        (B, C, H, W) -> (B, C, H, W).

    Raises:
        ValueError: ``width`` is no multiple of ``num_heads``.
    """

    def __init__(self, channels: int, width: int, depth: int, num_heads: int = 4, mlp_ratio: int = 2, patch_size: int = 2,
                 dropout: float = 0., norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
                 drop_path: Optional[nn.Module] = None) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f'width={width} is not allowed; choose a multiple of num_heads={num_heads}')
        self.patch_size = patch_size

        def conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
            layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
            return nn.Sequential(layer, norm_layer(out_channels), nn.SiLU())

        self.local = nn.Sequential(conv(channels, channels, 3), nn.Conv2d(channels, width, 1, bias=False))
        self.blocks = nn.Sequential(*(TransformerLayer(width, num_heads, mlp_ratio, dropout, drop_path) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.project = conv(width, channels, 1)
        self.fuse = conv(2 * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        t = self.local(x)
        H, W = t.shape[2:]
        p = self.patch_size
        h, w = (H + p - 1) // p, (W + p - 1) // p
        # in a graph that is exported for all sizes no branch may depend on one; resizing to the same size changes nothing
        is_resized = is_symbolic(H, W) or (h * p, w * p) != (H, W)
        if is_resized:
            t = F.interpolate(t, (h * p, w * p), mode='bilinear', align_corners=False)
        t = fold(self.norm(self.blocks(unfold(t, p))), h, w, p)
        if is_resized:
            t = F.interpolate(t, (H, W), mode='bilinear', align_corners=False)
        return self.fuse(torch.cat([x, self.project(t)], dim=1))


def unfold(x: Tensor, p: int) -> Tensor:
    """Tokens that share their position in a patch of side p: (B, C, h*p, w*p) -> (B, p*p, h*w, C)."""
    B, C, H, W = x.shape
    x = x.permute(0, 2, 3, 1).reshape(B, H // p, p, W // p, p, C)
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2)


def fold(tokens: Tensor, h: int, w: int, p: int) -> Tensor:
    """The inverse of `unfold`: (B, p*p, h*w, C) -> (B, C, h*p, w*p), channels_last."""
    x = tokens.unflatten(2, (h, w)).unflatten(1, (p, p)).permute(0, 3, 1, 4, 2, 5)
    return x.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
