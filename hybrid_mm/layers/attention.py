"""Attention in PyTorch's fused kernels, for any number of windows."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import is_symbolic

# batch times heads of one call: CUDA's kernels lay these along a side of their grid that ends there (pytorch#146704)
LIMIT = 65535


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None) -> Tensor:
    """Multi-head attention by ``F.scaled_dot_product_attention``, in as many calls as CUDA's kernels need.

    Queries are (B, heads, N, d), keys and values (B, heads, M, d), the output (B, heads, N, d). B may be 0. The mask,
    (B, 1, 1, M) bool, is True for the keys that take part; None: all do.
    """
    B, heads = q.shape[:2]
    if is_symbolic(B) or 0 < B * heads <= LIMIT:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if B == 0:  # the fused kernels refuse it on some devices
        return q @ k.transpose(-1, -2) @ v
    size = max(1, LIMIT // heads)
    masks = [None] * -(-B // size) if mask is None else mask.split(size)
    calls = zip(q.split(size), k.split(size), v.split(size), masks)
    return torch.cat([F.scaled_dot_product_attention(*call[:3], attn_mask=call[3]) for call in calls])


def attend_among(qkv: Tensor, num_heads: int, mask: Optional[Tensor] = None) -> Tensor:
    """Attention of each of N tokens to all of them, (B, N, 3C) -> (B, N, C); the mask is that of `attend`.

    Channels come in order [q | k | v], inside each [head, channel of the head].
    """
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, d)
    return attend(q, k, v, mask).transpose(1, 2).flatten(2)


def count_heads(channels: int, head_dim: int) -> int:
    """Heads of `head_dim` channels in `channels`; a ValueError if these are no multiple of it."""
    if head_dim < 1 or channels < 1 or channels % head_dim:
        raise ValueError(f'head_dim={head_dim} does not divide channels={channels}; choose a positive divisor of {channels}')
    return channels // head_dim


def check_at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f'{name}={size} is not allowed; choose 1 or more')
