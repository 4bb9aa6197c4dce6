"""Sinkhorn's iterations between tokens and references, in two forms that give the same plan, and their gradient.

Where no entry of the logits L is so small that exp(L) leaves the range of float32, Sinkhorn needs products of matrices and
vectors alone, and no exponential but the one of L: `Scaling`. Elsewhere it runs in the log domain: `LogDomain`.
"""
import math
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..tracing import needs_plain
from .definition import row_sums

_GROUP = 4  # iterations whose parts of the kernel's gradient are added up in one product


def balance(kernel: Tensor, iterations: int, mask: Optional[Tensor], narrow: bool) -> Tuple[Tensor, Tensor]:
    """f (B, h, n) and g (B, h, m) with which the plan has its marginals, columns exactly; for `Scaling` if narrow, else for
    `LogDomain`."""
    rows = row_sums(kernel, mask)
    rows = rows if narrow else rows.log()
    form = Scaling if narrow else LogDomain
    # what torch.func transforms has to be plain operators; a compiler sees through the function
    if torch.is_grad_enabled() and kernel.requires_grad and (torch.compiler.is_compiling() or not needs_plain()):
        return Sinkhorn.apply(kernel, rows, iterations, form)
    return form.solve(kernel, rows, iterations)[:2]


def times_rows(f: Tensor, K: Tensor) -> Tensor:
    """``f K``: (..., n) and (..., n, m) to (..., m)."""
    return (f[..., None, :] @ K)[..., 0, :]


def times_columns(K: Tensor, g: Tensor) -> Tensor:
    """``K g``: (..., n, m) and (..., m) to (..., n). As a row times a matrix, nine times faster on a CPU than the other way."""
    return (g[..., None, :] @ K.transpose(-1, -2))[..., 0, :]


class Scaling:
    """Sinkhorn on K = exp(L): the plan is ``f_i K_ij g_j``. A half step is one product of K and a vector."""

    @staticmethod
    def rows(K: Tensor, rows: Tensor, g: Tensor) -> Tensor:
        return rows / times_columns(K, g)

    @classmethod
    def solve(cls, K: Tensor, rows: Tensor, iterations: int):
        m = K.shape[-1]
        past = [K.new_ones(*K.shape[:-2], m)]
        for _ in range(iterations):
            f = cls.rows(K, rows, past[-1])
            past.append(1 / (m * times_rows(f, K)))
        return f, past[-1], past

    @classmethod
    def back(cls, K, rows, past, df, dg, dK=None):
        """Gradient of K from those of f and g, added to dK where that is given. The row factors are computed anew.

        Each iteration adds two products of a vector of n and one of m numbers to it. They are added up `_GROUP` iterations at
        a time, as adding them one by one reads and writes an array (n, m) each time.
        """
        left, right = [], []
        dK = None if dK is None else dK.flatten(0, 1)
        for i in range(len(past) - 1, 0, -1):
            before, g = past[i - 1], past[i]
            b = dg * (-K.shape[-1] * g * g)  # dg / d(column sum)
            sums, change = (torch.stack([before, b], -2) @ K.transpose(-1, -2)).unbind(-2)
            f = rows / sums
            df = change if df is None else change + df
            a = torch.where(rows > 0, -df * f * f / rows, 0)
            dg, df = times_rows(a, K), None
            left += [f, a]
            right += [b, before]
            if i == 1 or len(left) == 2 * _GROUP:
                pair = torch.stack(left, -1).flatten(0, 1), torch.stack(right, -2).flatten(0, 1)
                dK = torch.bmm(*pair) if dK is None else dK.baddbmm_(*pair)
                left, right = [], []
        return dK.view(K.shape)


class LogDomain:
    """Sinkhorn on the logits L: the plan is ``exp(L_ij + f_i + g_j)``. A half step is a sum of exponentials."""

    @staticmethod
    def rows(L: Tensor, rows: Tensor, g: Tensor) -> Tensor:
        return rows - torch.logsumexp(L + g[..., None, :], -1)

    @classmethod
    def solve(cls, L: Tensor, rows: Tensor, iterations: int):
        m = L.shape[-1]
        past = [L.new_zeros(*L.shape[:-2], m)]
        for _ in range(iterations):
            f = cls.rows(L, rows, past[-1])
            past.append(-math.log(m) - torch.logsumexp(L + f[..., None], -2))
        return f, past[-1], past

    @classmethod
    def back(cls, L, rows, past, df, dg):
        dL = torch.zeros_like(L)
        for i in range(len(past) - 1, 0, -1):
            before, g = past[i - 1], past[i]
            f = cls.rows(L, rows, before)
            weights = torch.exp(L + f[..., None] + g[..., None, :]) * (L.shape[-1] * dg)[..., None, :]
            dL -= weights
            df = df - weights.sum(-1)
            weights = torch.softmax(L + before[..., None, :], -1) * df[..., None]
            dL -= weights
            dg, df = -weights.sum(-2), torch.zeros_like(df)
        return dL


class Sinkhorn(torch.autograd.Function):
    """The iterations with the exact gradient of what was computed, converged or not.

    The forward pass keeps the column factors g of each iteration, m numbers a head; the row factors f follow from them by half a
    step. So the memory of the backward pass does not grow with the iterations by more than that. The implicit gradient at
    the fixed point would need as little, but it is the gradient of a plan that a few iterations have not reached.
    """

    @staticmethod
    def forward(ctx, kernel, rows, iterations, form):
        f, g, past = form.solve(kernel, rows, iterations)
        ctx.form = form
        ctx.save_for_backward(kernel, rows, *past)
        return f, g

    @staticmethod
    @once_differentiable
    def backward(ctx, df, dg):
        kernel, rows, *past = ctx.saved_tensors
        return ctx.form.back(kernel, rows, past, df, dg), None, None, None
