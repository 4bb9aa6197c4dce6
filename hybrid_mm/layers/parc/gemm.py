"""Circular correlation as products with circulant matrices.

A circulant matrix of even size n = 2m is [[A, B], [B, A]]. With s = x1 + x2 and d = x1 - x2, the halves of a line,

.. code-block:: text

    P = (A + B)/2 s,  Q = (A - B)/2 d,  y1 = P + Q,  y2 = P - Q,

which is half the work; the kernel gradient halves in the same way.
"""
from typing import Optional, Tuple

import torch
from torch import Tensor

from .lines import as_map, dim_of, write_sum


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    return dtype


def prepare(weight: Tensor, depthwise: bool, dtype: torch.dtype) -> Tensor:
    """depthwise (C, n, n), or where that pays (C, 2, n/2, n/2); dense (C_out * n, C * n)"""
    n = weight.shape[2]
    rows = n // 2 if _halves_pay(n) and depthwise else n
    steps = torch.arange(n, device=weight.device)
    matrix = weight[:, :, (steps - steps[:rows, None]) % n]  # [.., i, j] = weight[.., j - i]
    if not depthwise:
        return matrix.to(dtype).transpose(1, 2).flatten(2).flatten(0, 1)
    if rows == n:
        return matrix.to(dtype)[:, 0]
    A, B = matrix.tensor_split(2, 3)
    return torch.cat([(A + B) / 2, (A - B) / 2], 1).to(dtype)


def dense_channels(kernel: Tensor, n: int) -> Optional[int]:
    """C_out of a dense kernel, None of a depthwise one"""
    return kernel.shape[0] // n if kernel.dim() == 2 else None


def correlate(x: Tensor, kernel: Tensor, axis: str) -> Tensor:
    if kernel.dim() == 4:
        P, Q = _halves(x, kernel, axis)
        return torch.cat([P + Q, P - Q], dim_of(axis))
    if kernel.dim() == 3:
        return _multiply(kernel, x, axis)
    B, C, H, W = x.shape
    if axis == 'H':
        return (kernel @ x.reshape(B, C * H, W)).view(B, -1, H, W)
    return (kernel @ x.transpose(2, 3).reshape(B, C * W, H)).view(B, -1, W, H).transpose(2, 3)


def write(x: Tensor, kernel: Tensor, offset: Optional[Tensor], axis: str, out: Tensor) -> None:
    if kernel.dim() < 4:
        return write_sum(correlate(x, kernel, axis), offset, axis, out)
    P, Q = _halves(x, kernel, axis)
    if offset is not None:
        first, second = as_map(offset, axis).chunk(2, dim_of(axis) - 1)
        P.add_((first + second) / 2)
        Q.add_((first - second) / 2)
    y1, y2 = out.chunk(2, dim_of(axis))
    torch.add(P, Q, out=y1)
    torch.sub(P, Q, out=y2)


def kernel_gradient(x: Tensor, grad: Tensor, depthwise: bool, axis: str) -> Tensor:
    n = x.shape[dim_of(axis)]
    if axis == 'W':
        x, grad = x.transpose(2, 3), grad.transpose(2, 3)
    if not depthwise:
        lines = [t.permute(1, 2, 0, 3).flatten(2).flatten(0, 1) for t in (grad, x)]  # (C * n, lines)
        products = (lines[0] @ lines[1].T).unflatten(1, (-1, n)).unflatten(0, (-1, n)).transpose(1, 2)
    elif not _halves_pay(n):
        products = _outer(grad, x)
    else:
        (x1, x2), (grad1, grad2) = x.chunk(2, 2), grad.chunk(2, 2)
        U, V = _outer(grad1 + grad2, x1 + x2), _outer(grad1 - grad2, x1 - x2)
        products = torch.cat([U + V, U - V], 3) / 2
    rows = torch.arange(products.shape[2], device=x.device)[:, None]
    taps = torch.arange(n, device=x.device)
    return products[:, :, rows, (rows + taps) % n].sum(2)  # g[k] = sum over i of products[i, i + k]


def _halves_pay(n: int) -> bool:
    return n % 2 == 0 and n >= 40  # below, two more passes over the map cost as much as the work that is saved


def _halves(x: Tensor, kernel: Tensor, axis: str) -> Tuple[Tensor, Tensor]:
    """P and Q"""
    x1, x2 = x.chunk(2, dim_of(axis))
    return _multiply(kernel[:, 0], x1 + x2, axis), _multiply(kernel[:, 1], x1 - x2, axis)


def _multiply(matrices: Tensor, x: Tensor, axis: str) -> Tensor:
    """(C, n, n) times every line of (B, C, H, W)."""
    return matrices @ x if axis == 'H' else x @ matrices.transpose(1, 2)


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """sum over lines of grad[i] x[j], (C, 1, i, j), at least in float32"""
    products = (grad @ x.transpose(2, 3)).sum(0)[:, None]
    return products.float() if products.dtype.itemsize < 4 else products
