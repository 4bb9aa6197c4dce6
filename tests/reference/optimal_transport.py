"""Self-optimal transport by its definition: Sinkhorn in the log domain on full plans, one sequence and one head at a time."""
import math
from typing import Optional, Tuple

import torch
from torch import Tensor, nn


def self_optimal_transport(layer: nn.Module,
                           x: Tensor,
                           mask: Optional[Tensor] = None,
                           size: Optional[Tuple[int, int]] = None,
                           **settings) -> Tensor:
    """What a layer with these weights and settings gives, padding taken out before anything else.

    Args:
        layer: holds ``value``, ``proj``, ``references`` (h, m, d), and ``centres`` (h, k, d) or None; no more of it is used.
        x: (B, n, C).
        mask: (B, n) bool, True for real tokens.
        size: height and width, for the prior '2d'.
        settings: similarity, sigma, eps, iterations, prior, tau.

    Returns:
        (B, n, C).
    """
    return layer.proj(exchange(layer, layer.value(x), mask, size, **settings))


def exchange(layer: nn.Module, v: Tensor, mask: Optional[Tensor], size: Optional[Tuple[int, int]], *, similarity: str,
             sigma: float, eps: float, iterations: int, prior: Optional[str], tau: float) -> Tensor:
    """Projected tokens (B, n, C) to what they take back from the references, (B, n, C)."""
    num_heads, m, d = layer.references.shape
    sequences = []
    for b in range(len(v)):
        real = torch.ones(v.shape[1], dtype=torch.bool) if mask is None else mask[b]
        log_prior = position_prior(prior, int(real.sum()), m, tau, size).to(v) if real.any() else None
        heads = []
        for h in range(num_heads):
            values = v[b, real, h * d:(h + 1) * d]  # (n of real ones, d)
            keys = unit(values)
            references = unit(layer.references[h].to(v.dtype))
            if layer.centres is not None:
                values = nystrom(keys, unit(layer.centres[h].to(v.dtype)), similarity, sigma)
            out = torch.zeros_like(v[b, :, :d])
            if real.any():
                log_plan = sinkhorn(kernel(keys, references, similarity, sigma) / eps, iterations)
                out = out.index_put((real, ), transport(log_plan, values, log_prior if prior else None))
            heads.append(out)
        sequences.append(torch.cat(heads, 1))
    return torch.stack(sequences)


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum(-1, keepdim=True).sqrt()


def kernel(x: Tensor, y: Tensor, similarity: str, sigma: float) -> Tensor:
    """Unit vectors (n, d) and (m, d) to (n, m)."""
    if similarity == 'dot':
        return torch.einsum('nd,md->nm', x, y)
    return torch.exp(-(x[:, None] - y[None]).square().sum(-1) / (2 * sigma**2))


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """Similarity over eps, (n, m), to the logarithm of the plan: rows to 1/n first, columns to 1/m last."""
    n, m = scores.shape
    g = scores.new_zeros(m)
    for _ in range(iterations):
        f = -math.log(n) - torch.logsumexp(scores + g[None, :], 1)
        g = -math.log(m) - torch.logsumexp(scores + f[:, None], 0)
    return scores + f[:, None] + g[None, :]


def transport(log_plan: Tensor, values: Tensor, log_prior: Optional[Tensor] = None) -> Tensor:
    """Pool the values (n, d) into the references along the columns, scatter what they hold along the rows."""
    n, m = log_plan.shape
    if log_prior is None:
        plan = log_plan.exp()
        return n * plan @ (m * plan.T @ values)
    weights = log_plan + log_prior
    return torch.softmax(weights, 1) @ (torch.softmax(weights, 0).T @ values)


def position_prior(prior: Optional[str], n: int, m: int, tau: float, size: Optional[Tuple[int, int]]) -> Tensor:
    """Logarithm of the prior, (n, m): squared distance of the positions of token and reference, over tau squared."""
    if prior is None:
        return torch.zeros(n, m, dtype=torch.float64)
    if prior == '1d':
        tokens, references = [(i / n, 0.) for i in range(n)], [(j / m, 0.) for j in range(m)]
    else:
        tokens, references = cell_centres(*size), cell_centres(math.isqrt(m), math.isqrt(m))
    rows = [[-((r - p)**2 + (c - q)**2) / tau**2 for p, q in references] for r, c in tokens]
    return torch.tensor(rows, dtype=torch.float64)


def cell_centres(height: int, width: int) -> list:
    """Centres of the cells of a grid that fills the unit square, row by row."""
    return [((r + 0.5) / height, (c + 0.5) / width) for r in range(height) for c in range(width)]


def nystrom(keys: Tensor, centres: Tensor, similarity: str, sigma: float) -> Tensor:
    """``k(z, z)^(-1/2) k(z, x)`` of every key, eigenvalues l of k(z, z) as 1 / (sqrt(max(l, 0)) + 0.01): (n, k)."""
    eigenvalues, vectors = torch.linalg.eigh(kernel(centres, centres, similarity, sigma))
    root = vectors @ torch.diag(1 / (eigenvalues.clamp(min=0).sqrt() + 0.01)) @ vectors.T
    return (root @ kernel(centres, keys, similarity, sigma)).T
