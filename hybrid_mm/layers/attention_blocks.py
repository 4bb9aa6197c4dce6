"""Attention as plain matrix products, block by block.

A block is so small that its weights stay in the cache from the first product to the last, as in FlashAttention (Dao et al., arXiv
2205.14135), and the backward pass computes them again: no weights are kept, and no output either. A block is a few windows with
all their queries, or a part of the queries of one map.
"""
from typing import Any, Iterator, Optional, Tuple

import torch
from torch import Tensor

# Attention weights of a block. On one core, 240 windows of 64 tokens, forward and backward, in milliseconds for 2**16, 2**18
# and 2**20: bfloat16 16.8, 13.6, 13.0; float32 22.2, 22.0, 24.6. One map, 15360 queries on 240 keys: bfloat16 48, 37, 34.
_BLOCK = {2: 2**20, 4: 2**18, 8: 2**17}  # by bytes of a number


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor] = None) -> Tensor:
    """Multi-head attention, with the arguments of `attention.attend`: (B, heads, N, d), which lies in memory as (B, N, heads, d).

    In half precision it is as exact as plain products are: unlike the fused kernels' scores, those here are rounded.
    """
    return _Attention.apply(q, k, v, mask)


def attend_among_in_blocks(qkv: Tensor, num_heads: int, mask: Optional[Tensor] = None) -> Tensor:
    """The same with the arguments of `attention.attend_among`: (B, N, 3C) -> (B, N, C)."""
    return _AttentionAmong.apply(qkv, num_heads, mask)


class _Attention(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)
        return _attend(q, k, v, mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        q, k, v, mask = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody differentiates the gradients
            return (*torch.autograd.grad(_plainly(q, k, v, mask), (q, k, v), grad, create_graph=True), None)
        grad_q, grad_k, grad_v = map(_empty_like_tokens, (q, k, v))
        _backward(grad, q, k, v, mask, grad_q, grad_k, grad_v)
        return grad_q, grad_k, grad_v, None


class _AttentionAmong(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int, mask: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(qkv, mask)
        ctx.num_heads = num_heads
        q, k, v = _split(qkv, num_heads)
        return _attend(q, k, v, mask).transpose(1, 2).flatten(2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        qkv, mask = ctx.saved_tensors
        q, k, v = _split(qkv, ctx.num_heads)
        if torch.is_grad_enabled():
            out = _plainly(q, k, v, mask).transpose(1, 2).flatten(2)
            return (*torch.autograd.grad(out, (qkv, ), grad, create_graph=True), None, None)
        gradient = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
        grad_q, grad_k, grad_v = _split(gradient, ctx.num_heads)
        _backward(grad.unflatten(2, (ctx.num_heads, -1)).transpose(1, 2), q, k, v, mask, grad_q, grad_k, grad_v)
        return gradient, None, None


def _split(qkv: Tensor, num_heads: int) -> Tuple[Tensor, Tensor, Tensor]:
    """(B, N, 3C) -> three (B, heads, N, d), views."""
    q, k, v = qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def _empty_like_tokens(x: Tensor) -> Tensor:
    """An empty (B, heads, N, d) whose memory is (B, N, heads, d)."""
    B, heads, N, d = x.shape
    return torch.empty(B, N, heads, d, dtype=x.dtype, device=x.device).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor]) -> Tensor:
    out = _empty_like_tokens(q)
    for some, rows in _blocks(q, k):
        out[some, :, rows] = _weights(q[some, :, rows], k[some], None if mask is None else mask[some]) @ v[some]
    return out


def _backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor], grad_q: Tensor, grad_k: Tensor,
              grad_v: Tensor) -> None:
    """Write the gradients of q, k and v into the last three arguments."""
    last = None
    for some, rows in _blocks(q, k):
        weights = _weights(q[some, :, rows], k[some], None if mask is None else mask[some])
        of_weights = torch._softmax_backward_data(grad[some, :, rows] @ v[some].transpose(2, 3), weights, -1, weights.dtype)
        of_weights.mul_(q.shape[3]**-0.5)
        grad_q[some, :, rows] = of_weights @ k[some]
        of_k = of_weights.transpose(2, 3) @ q[some, :, rows]
        of_v = weights.transpose(2, 3) @ grad[some, :, rows]
        if some == last:  # further queries of the same keys
            grad_k[some] += of_k
            grad_v[some] += of_v
        else:
            grad_k[some] = of_k
            grad_v[some] = of_v
        last = some


def _weights(q: Tensor, k: Tensor, mask: Optional[Tensor]) -> Tensor:
    """Attention weights (b, heads, n, M)."""
    scores = (q @ k.transpose(2, 3)).mul_(q.shape[3]**-0.5)
    return (scores if mask is None else scores.masked_fill_(~mask, -torch.inf)).softmax(-1)


def _blocks(q: Tensor, k: Tensor) -> Iterator[Tuple[slice, slice]]:
    """Which windows, and which queries of them, make a block."""
    (B, heads, N, _), M = q.shape, k.shape[2]
    size = _BLOCK[q.element_size()]
    rows = max(1, min(N, size // (heads * M)))
    windows = max(1, size // (heads * N * M))
    for b in range(0, B, windows):
        for n in range(0, N, rows):
            yield slice(b, b + windows), slice(n, n + rows)


def _plainly(q: Tensor, k: Tensor, v: Tensor, mask: Optional[Tensor]) -> Tensor:
    scores = q @ k.transpose(2, 3) * q.shape[3]**-0.5
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1) @ v
