"""`transport` of `plain.py` in blocks of tokens, for a CPU: a block stays in the cache until all is done to it.

As operators on whole arrays, the similarity, the prior, their weights and all gradients of these read and write some thirty
arrays of (n, m) numbers, and at many tokens each time from memory. Here two of them remain: the kernel K and, in the backward
pass, its gradient. Sinkhorn, which needs all tokens between two steps, works on them as a whole. With W = K * prior, the
factors f and g of the plan, and ``[a, b]`` for columns side by side, a block of tokens adds to or gives

.. code-block:: text

    pool      [M, s] = W^T [f v, f]      A   = M / s        what the references collect
    scatter   [N, t] = W [g A, g]        out = N / t        with a prior
                                         out = N f n        without, when t = 1 / (f n)

and, backward, the same products with the other factor. K is computed anew for the backward pass: the forward pass keeps its
inputs and what has m rows.
"""
from typing import Iterator, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .definition import Prior, Similarity, real_tokens, row_sums
from .sinkhorn import Scaling

_BYTES = 2**21  # of one (n, m) array of a block: a megabyte for each of two cores
_SMALLEST = 256  # tokens of a block, however many heads


def available(values: Tensor, similarity: Similarity, prior: Optional[Prior]) -> bool:
    """Whether values (B, h, n, d) are plain CPU tensors, and the kernel within the range of float32."""
    return type(values) is Tensor and values.device.type == 'cpu' and similarity.is_narrow(prior)


def transport(values: Tensor, keys: Tensor, references: Tensor, similarity: Similarity, iterations: int,
              prior: Optional[Prior] = None, mask: Optional[Tensor] = None) -> Tensor:
    """What `transport` of `plain.py` computes, with gradients of values, keys and references; all arguments as there."""
    out = _Transport.apply(values, keys, references, similarity, iterations, prior, mask)
    return out if mask is None else out * mask[:, None, :, None]


class _Transport(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, keys, references, similarity, iterations, prior, mask):
        rows, count = row_sums(keys, mask), real_tokens(keys, mask)
        K = _kernel(keys, references, similarity)
        f, g, past = Scaling.solve(K, rows, iterations)

        pooled = values.new_zeros(*K.shape[:-2], K.shape[-1], values.shape[-1] + 1)
        for block in _blocks(K):
            W = K[block].mul_(_weights(prior, block)) if prior else K[block]  # for both steps; Sinkhorn is done with K
            pooled += W.mT @ _beside(f[block[:-1]][..., None] * values[block], f[block[:-1]])
        back = _to_tokens(pooled, g)
        out = torch.empty_like(values)
        for block in _blocks(K):
            N, t = (K[block] @ back).tensor_split([-1], -1)
            out[block] = N / t if prior else N * (f[block[:-1]] * count)[..., None]

        ctx.save_for_backward(values, keys, references, mask, pooled, *past)
        ctx.similarity, ctx.prior = similarity, prior
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        values, keys, references, mask, pooled, *past = ctx.saved_tensors
        similarity, prior, g = ctx.similarity, ctx.prior, past[-1]
        rows, count = row_sums(keys, mask), real_tokens(keys, mask)
        K = _kernel(keys, references, similarity)
        f = Scaling.rows(K, rows, past[-2])

        # scatter
        back, dback = _to_tokens(pooled, g), torch.zeros_like(pooled)
        df, dscatter = torch.zeros_like(f), values.new_empty(*values.shape[:-1], back.shape[-1])
        weights = []  # without a dimension for heads
        for block in _blocks(K):
            weights.append(_weights(prior, block) if prior else None)
            W = K[block] * weights[-1] if prior else K[block]
            N, t = (W @ back).tensor_split([-1], -1)
            if prior:
                dN = dout[block] / t
                dt = -(dN * N).sum(-1) / t[..., 0]
            else:
                dN = dout[block] * (f[block[:-1]] * count)[..., None]
                dt = torch.zeros_like(t[..., 0])
                df[block[:-1]] = (dout[block] * N).sum(-1) * count
            dscatter[block] = _beside(dN, dt)
            dback += W.mT @ dscatter[block]
        A, s = pooled[..., :-1] / pooled[..., -1:], pooled[..., -1:]
        dA = dback[..., :-1] * g[..., None]
        dg = (dback[..., :-1] * A).sum(-1) + dback[..., -1]

        # pool, and what both steps ask of the kernel
        dpool = _beside(dA / s, -(dA * A).sum(-1) / s[..., 0])
        both = torch.cat([back, dpool], -1).mT
        dvalues, dK = torch.empty_like(values), torch.empty_like(K)
        for block, P in zip(_blocks(K), weights):
            W = K[block] * P if prior else K[block]
            v, f_block = values[block], f[block[:-1]]
            dv, change = (W @ dpool).tensor_split([-1], -1)
            df[block[:-1]] += (dv * v).sum(-1) + change[..., 0]
            dvalues[block] = f_block[..., None] * dv
            dW = torch.cat([dscatter[block], f_block[..., None] * v, f_block[..., None]], -1) @ both
            dK[block] = dW.mul_(P) if prior else dW

        Scaling.back(K, rows, past, df, dg, dK)

        # similarity
        dkeys, dreferences = torch.empty_like(keys), torch.zeros_like(references)
        for block in _blocks(K):
            x = keys[block]
            ddot = dK[block].mul_(K[block]).mul_(similarity.slope(x, references))
            dkeys[block] = ddot @ references
            dreferences += (ddot.mT @ x).sum(0)
        return dvalues, dkeys, dreferences, None, None, None, None


def _kernel(keys: Tensor, references: Tensor, similarity: Similarity) -> Tensor:
    K = keys.new_empty(*keys.shape[:-1], references.shape[-2])
    for block in _blocks(K):
        K[block] = similarity.logits(keys[block], references).exp_()
    return K


def _weights(prior: Prior, block: tuple) -> Tensor:
    return prior._replace(tokens=prior.tokens[block]).log.exp_()


def _blocks(K: Tensor) -> Iterator[tuple]:
    """Indices of blocks of tokens in an array (B, h, n, ...); less its last entry, in one of (B, h, n)."""
    n = K.shape[-2]
    number = max(1, round(K.numel() * K.element_size() / _BYTES))
    size = max(_SMALLEST, -(-n // number))
    for start in range(0, n, size):
        yield ..., slice(start, start + size), slice(None)


def _beside(columns: Tensor, last: Tensor) -> Tensor:
    """(..., d) and (...) to (..., d + 1)."""
    return torch.cat([columns, last[..., None]], -1)


def _to_tokens(pooled: Tensor, g: Tensor) -> Tensor:
    """[M, s] to [g A, g], (..., m, d + 1)."""
    return _beside(pooled[..., :-1] * (g[..., None] / pooled[..., -1:]), g)
