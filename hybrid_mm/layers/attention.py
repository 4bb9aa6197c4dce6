"""Attention in PyTorch's fused kernels, for any number of windows. This file needs torch alone."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .tracing import is_symbolic

# batch times heads of one call: CUDA's kernels lay these along a side of their grid that ends there (pytorch#146704)
LIMIT = 65535


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None) -> Tensor:
    """Multi-head attention by ``F.scaled_dot_product_attention``, in as many calls as CUDA's kernels need.

    Args:
        q: queries, (B, heads, N, d).
        k: keys, (B, heads, M, d).
        v: values, (B, heads, M, d).
        mask: (B, 1, 1, M) bool, True for the keys that take part. None: all do.

    Returns:
        (B, heads, N, d). B may be 0.
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
