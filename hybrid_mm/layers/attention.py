"""Attention in the form that is fastest for its shape, dtype and device, for any number of windows."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_blocks import attend_among_in_blocks, attend_in_blocks
from .tracing import is_symbolic, needs_plain

# batch times heads of one call: CUDA's kernels lay these along a side of their grid that ends there (pytorch#146704)
LIMIT = 65535
_MANY = 256  # windows


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None) -> Tensor:
    """Multi-head attention by ``F.scaled_dot_product_attention``, in as many calls as CUDA's kernels need, or by plain products.

    Queries are (B, heads, N, d), keys and values (B, heads, M, d), the output (B, heads, N, d). B may be 0. The mask,
    (B, 1, 1, M) bool, is True for the keys that take part; None: all do.
    """
    if _is_faster_in_blocks(q, k):
        return attend_in_blocks(q, k, v, mask)
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
    if _is_faster_in_blocks(q, k):
        return attend_among_in_blocks(qkv, num_heads, mask)
    return attend(q, k, v, mask).transpose(1, 2).flatten(2)


def _is_faster_in_blocks(q: Tensor, k: Tensor) -> bool:
    """Whether `attention_blocks` outruns the fused kernel.

    On CPUs the fused kernel computes the backward pass in bfloat16 at a third of the speed of products: one core, 240 windows of
    64 tokens with one head of 64 channels, forward and backward, 40 ms against 13; 196 tokens with 5 heads of 48, 94 against 50.
    In float32 it is the faster one, by a tenth to a third, except for many windows with one head, 138 against 87 ms for 960.
    """
    if q.device.type != 'cpu' or needs_plain() or q.numel() == 0:
        return False
    if q.dtype == torch.bfloat16:
        return True
    learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    return q.dtype == torch.float32 and learns and q.shape[1] == 1 and len(q) >= _MANY


def count_heads(channels: int, head_dim: int) -> int:
    """Heads of `head_dim` channels in `channels`; a ValueError if these are no multiple of it."""
    if head_dim < 1 or channels < 1 or channels % head_dim:
        raise ValueError(f'head_dim={head_dim} does not divide channels={channels}; choose a positive divisor of {channels}')
    return channels // head_dim


def check_at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f'{name}={size} is not allowed; choose 1 or more')
