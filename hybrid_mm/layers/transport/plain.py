"""The transport by operators on whole arrays of tokens and references: it runs everywhere, and torch sees through it."""
from typing import Optional, Tuple

import torch
from torch import Tensor

from .definition import Prior, Similarity, real_tokens
from .sinkhorn import balance, times_columns, times_rows


def transport(values: Tensor, keys: Tensor, references: Tensor, similarity: Similarity, iterations: int,
              prior: Optional[Prior] = None, mask: Optional[Tensor] = None) -> Tensor:
    """Values of all tokens (B, h, n, d), exchanged through the references along the plan: (B, h, n, d).

    Without prior this is ``n m T T^T V``, symmetric and positive semi-definite in the tokens; with a prior, both factors are
    normalised to weights that sum to 1. Keys (B, h, n, k) and references (h, m, k) are unit vectors. The mask, (B, n) bool, is
    True for real tokens; padding sends nothing and gets zeros. None: all are real.
    """
    cells, K, f, g = pool(values, keys, references, similarity, iterations, prior, mask)
    if similarity.is_narrow(prior):  # here f and g are factors
        out = K @ (g[..., None] * cells)
        out = out / times_columns(K, g)[..., None] if prior else out * (f * real_tokens(keys, mask))[..., None]
    elif prior:
        out = torch.softmax(K + g[..., None, :], -1) @ cells
    else:
        out = torch.exp(K + f[..., None] + g[..., None, :]) @ cells * real_tokens(keys, mask)[..., None]
    return out if mask is None else out * mask[:, None, :, None]


def pool(values: Tensor, keys: Tensor, references: Tensor, similarity: Similarity, iterations: int,
         prior: Optional[Prior] = None, mask: Optional[Tensor] = None) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """What each reference collects, ``A = m T^T V`` without prior: (B, h, m, d). Arguments as for `transport`.

    Behind it come the kernel with the prior, f and g: as numbers to multiply if these are narrow, else as logarithms to add.
    """
    logits = similarity.logits(keys, references)
    if similarity.is_narrow(prior):
        K = torch.exp(logits)
        f, g = balance(K, iterations, mask, True)
        if prior:
            K = K * torch.exp(prior.log)
        cells = (K.transpose(-1, -2) @ (f[..., None] * values)) / times_rows(f, K)[..., None]
    else:
        f, g = balance(logits, iterations, mask, False)
        K = logits + prior.log if prior else logits
        cells = torch.softmax(K + f[..., None], -2).transpose(-1, -2) @ values
    return cells, K, f, g


def plan(keys: Tensor, references: Tensor, similarity: Similarity, iterations: int, mask: Optional[Tensor] = None) -> Tensor:
    """The plan T before the prior, (B, h, n, m). Arguments as for `transport`."""
    logits = similarity.logits(keys, references)
    f, g = balance(logits, iterations, mask, False)
    return torch.exp(logits + f[..., None] + g[..., None, :])
