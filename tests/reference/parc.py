"""Position-aware circular convolution by its definition: sums over indices modulo the length of the axis."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def parc(x: Tensor, weight: Tensor, bias: Optional[Tensor], pos_embed: Optional[Tensor], axis: str) -> Tensor:
    """y[.., i] = bias + sum over k of weight[.., k] (x + pos_embed)[.., (i + k) mod n] along one axis.

    Args:
        x: (B, C, H, W).
        weight: (C_out, C or 1, K, 1) along H, (C_out, C or 1, 1, K) along W.
        bias: (C_out, ) or None.
        pos_embed: (1, C, K, 1) or (1, C, 1, K), or None.
        axis: ``'H'`` or ``'W'``.

    Returns:
        (B, C_out, H, W).
    """
    if axis == 'H':
        weight, pos_embed = weight.transpose(2, 3), None if pos_embed is None else pos_embed.transpose(2, 3)
        return parc(x.transpose(2, 3), weight, bias, pos_embed, 'W').transpose(2, 3)
    n = x.shape[3]
    if pos_embed is not None:
        x = x + F.interpolate(pos_embed, (1, n), mode='bilinear', align_corners=True)
    kernel = F.interpolate(weight, (1, n), mode='bilinear', align_corners=True)[:, :, 0]  # (C_out, C or 1, k)
    i, k = torch.arange(n)[:, None], torch.arange(n)
    ahead = x[..., (i + k) % n]  # (B, C, H, i, k)
    if kernel.shape[1] == 1:
        y = torch.einsum('bchik,ck->bchi', ahead, kernel[:, 0])
    else:
        y = torch.einsum('bchik,ock->bohi', ahead, kernel)
    return y if bias is None else y + bias[:, None, None]
