"""Hierarchical multi-head self-attention (H-MHSA), arXiv 2106.03180.

Attention over an image map costs O(N^2) for N positions. H-MHSA attends within small grids of neighbouring positions first
and reaches the rest of the map through pooled tokens. Two forms exist: `HMHSA`, the two steps of the authors' released code,
and `IterativeHMHSA`, the steps of the paper's text (v1/v2). Both map (B, C, H, W) to (B, C, H, W) at any H and W.
"""
from typing import Callable, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .add_conv import add_conv
from .attention import attend, attend_among, check_at_least_one, count_heads
from .norm_act_conv import IDENTITY, norm_act_conv
from .tracing import is_symbolic


class HMHSA(nn.Module):
    """H-MHSA in the form of the authors' release: local attention in grids, then attention to a pooled map.

    .. code-block:: text

        q, k, v = split(conv1x1(norm(x)))
        z   = grid_norm(x + attention of q, k, v inside grids)
        k,v = split(conv1x1(pool_norm(average pool of z)))
        out = conv1x1(attention of conv1x1(z) to all pooled k, v, plus z)

    With ``grid_size=1`` it is plain global attention, ``out = conv1x1(attention of q, k, v)``, as in the release's last stage.

    Where H or W is no multiple of the grid, the grids at the right and bottom edge hold fewer positions; the average pool
    covers the positions that exist. At other sizes this is the release's arithmetic.

    Args:
        channels: C, a multiple of ``head_dim``.
        head_dim: channels of one head.
        grid_size: side of the grids in positions; 1 means global attention.
        pool_ratio: kernel and stride of the average pool that makes the keys and values of the second step.
        norm_layer: makes a norm from a channel count, ``nn.BatchNorm2d`` in TransCNN.

    Shape:
        (B, C, H, W) -> (B, C, H, W), in the memory format of the input.

    Raises:
        ValueError: ``channels`` is no multiple of ``head_dim``, or a size is below 1.
    """

    def __init__(self, channels: int, head_dim: int = 64, grid_size: int = 8, pool_ratio: int = 8,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.num_heads = count_heads(channels, head_dim)
        check_at_least_one(grid_size=grid_size, pool_ratio=pool_ratio)
        self.grid_size = grid_size
        self.pool_ratio = pool_ratio

        self.norm = norm_layer(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        if grid_size > 1:
            self.grid_norm = norm_layer(channels)
            self.pool_norm = norm_layer(channels)
            self.q = nn.Conv2d(channels, channels, 1)
            self.kv = nn.Conv2d(channels, 2 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        qkv = norm_act_conv(x, self.norm, IDENTITY, self.qkv)  # (B, 3C, H, W)
        if self.grid_size == 1:
            q, k, v = qkv.chunk(3, dim=1)
            return self.proj(global_attention(q, k, v, self.num_heads))

        local = grid_attention(qkv, self.num_heads, self.grid_size)
        z = self.grid_norm(x + local)
        pooled = F.avg_pool2d(z, self.pool_ratio, ceil_mode=True, count_include_pad=False)  # (B, C, ceil(H/r), ceil(W/r))
        k, v = norm_act_conv(pooled, self.pool_norm, IDENTITY, self.kv).chunk(2, dim=1)
        return add_conv(global_attention(self.q(z), k, v, self.num_heads), z, self.proj)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, grid_size={self.grid_size}, pool_ratio={self.pool_ratio}'


class IterativeHMHSA(nn.Module):
    """H-MHSA in the form of the paper's text (v1/v2, section 3): attention in grids, repeated on ever smaller maps.

    .. code-block:: text

        a_0 = x + grid attention of norm_0(x), grids of G_0
        x_i = max pool of a_{i-1} + average pool of a_{i-1}, kernel and stride G_{i-1}
        a_i = x_i + grid attention of norm_i(x_i), grids of G_i
        out = conv1x1(sum of all a_i, upsampled to H x W)

    The paper's text leaves open how maps are upsampled and merged and whether steps share their weights. Decided here: the
    sum, bilinear upsampling on cell centres, and separate projections unless ``share_qkv``. Every step runs at every size,
    so that no parameter is without gradient.

    Args:
        channels: C, a multiple of ``head_dim``.
        head_dim: channels of one head.
        grid_sizes: (G_0, ..., G_M), one entry a step.
        share_qkv: one query, key and value projection for all steps; the norms stay separate.
        norm_layer: makes a norm from a channel count.

    Shape:
        (B, C, H, W) -> (B, C, H, W), in the memory format of the input.

    Raises:
        ValueError: ``channels`` is no multiple of ``head_dim``, or ``grid_sizes`` is empty or holds a size below 1.
    """

    def __init__(self, channels: int, head_dim: int = 64, grid_sizes: Sequence[int] = (8, 4, 2), share_qkv: bool = False,
                 norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.num_heads = count_heads(channels, head_dim)
        if not grid_sizes:
            raise ValueError('grid_sizes=() is empty; give one grid size a step, such as (8, 4, 2)')
        check_at_least_one(grid_sizes=min(grid_sizes))
        self.grid_sizes = tuple(grid_sizes)
        self.share_qkv = share_qkv

        self.norms = nn.ModuleList(norm_layer(channels) for _ in self.grid_sizes)
        self.qkvs = nn.ModuleList(nn.Conv2d(channels, 3 * channels, 1) for _ in self.grid_sizes[:1 if share_qkv else None])
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        H, W = x.shape[2:]
        cell = 1  # one position of the current map stands for cell x cell positions of x
        for i, grid_size in enumerate(self.grid_sizes):
            qkv = self.qkvs[0 if self.share_qkv else i](self.norms[i](x))
            a = x + grid_attention(qkv, self.num_heads, grid_size)
            if i == 0:
                total = a
            else:  # what lies outside of the map is cut off
                size = a.shape[2] * cell, a.shape[3] * cell
                total = total + F.interpolate(a, size, mode='bilinear', align_corners=False)[:, :, :H, :W]
            x = (F.max_pool2d(a, grid_size, ceil_mode=True) +
                 F.avg_pool2d(a, grid_size, ceil_mode=True, count_include_pad=False))
            cell *= grid_size
        return self.proj(total)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, grid_sizes={self.grid_sizes}, share_qkv={self.share_qkv}'


def global_attention(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Multi-head attention of every position of one map, queries (B, C, H, W), to every position of another, keys and values
    (B, C, h, w): (B, C, H, W), in the memory format of q. The heads share C in order [head, channel of the head].
    """

    def heads(t: Tensor) -> Tensor:  # (B, C, h, w) -> (B, heads, h*w, d); a view if t is channels_last
        return t.permute(0, 2, 3, 1).flatten(1, 2).unflatten(2, (num_heads, -1)).transpose(1, 2)

    out = attend(heads(q), heads(k), heads(v)).transpose(1, 2).flatten(2)
    return _to_map(out.unflatten(1, q.shape[2:]), q)


def grid_attention(qkv: Tensor, num_heads: int, grid_size: int) -> Tensor:
    """Multi-head attention inside disjoint grids of `grid_size` positions a side: (B, 3C, H, W) -> (B, C, H, W).

    Channels come in order [q | k | v], inside each [head, channel of the head]. A map smaller than a grid is one grid. The
    memory format is kept.
    """
    B, _, H, W = qkv.shape
    # a grid larger than the map holds the map and padding alone: cut it to the map
    gh, gw = (grid_size if is_symbolic(size) else min(grid_size, size) for size in (H, W))
    windows = window_partition(qkv.permute(0, 2, 3, 1), (gh, gw))  # (B, windows, gh*gw, 3C)
    mask = window_key_mask(H, W, (gh, gw), qkv.device)
    if mask is not None:  # (windows, gh*gw) -> (B*windows, 1, 1, keys)
        mask = mask.expand(B, -1, -1).flatten(0, 1)[:, None, None]
    out = attend_among(windows.flatten(0, 1), num_heads, mask).unflatten(0, windows.shape[:2])
    return _to_map(window_unpartition(out, (gh, gw), H, W), qkv)


def window_partition(x: Tensor, grid: Tuple[int, int]) -> Tensor:
    """Cut a map into disjoint windows (gh, gw), row by row, after zero padding at the right and bottom to whole windows.

    (B, H, W, C) -> (B, windows, gh*gw, C), windows = ceil(H/gh) * ceil(W/gw).
    """
    (B, H, W, C), (gh, gw) = x.shape, grid
    rows, cols = (H + gh - 1) // gh, (W + gw - 1) // gw
    x = F.pad(x, (0, 0, 0, cols * gw - W, 0, rows * gh - H)) if _is_cut(H, W, grid) else x
    x = x.reshape(B, rows, gh, cols, gw, C).transpose(2, 3)  # (B, rows, cols, gh, gw, C)
    return x.reshape(B, rows * cols, gh * gw, C)


def window_unpartition(windows: Tensor, grid: Tuple[int, int], H: int, W: int) -> Tensor:
    """Put windows back into a map and cut the padding off: `window_partition` undone, (B, windows, gh*gw, C) -> (B, H, W, C)."""
    B, C, (gh, gw) = windows.shape[0], windows.shape[-1], grid
    rows, cols = (H + gh - 1) // gh, (W + gw - 1) // gw
    x = windows.reshape(B, rows, cols, gh, gw, C).transpose(2, 3)  # (B, rows, gh, cols, gw, C)
    return x.reshape(B, rows * gh, cols * gw, C)[:, :H, :W]


def window_key_mask(H: int, W: int, grid: Tuple[int, int], device: torch.device) -> Optional[Tensor]:
    """Which positions of each window lie on the map: (windows, gh*gw) bool, or None where every position does."""
    if not _is_cut(H, W, grid):
        return None
    return window_partition(torch.ones(1, H, W, 1, dtype=torch.bool, device=device), grid)[0, :, :, 0]


def _is_cut(H: int, W: int, grid: Tuple[int, int]) -> bool:
    """Whether windows at the edge reach over the map, or may do so."""
    return is_symbolic(H, W) or H % grid[0] != 0 or W % grid[1] != 0


def _to_map(x: Tensor, like: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), in the memory format of another map."""
    # by strides, since a slice of the channels is contiguous in neither format
    is_last = like.stride(1) < like.stride(3)
    return x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)
