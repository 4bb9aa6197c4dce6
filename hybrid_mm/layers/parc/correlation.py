"""Circular correlation of maps along one axis, exact, in three ways.

For a map x (B, C, H, W) and the axis H of length n, with indices modulo n:

.. code-block:: text

    depthwise   y[b,c,i,j] = offset[c,i] + sum over k of w[c,0,k] x[b,c,i+k,j]
    dense       y[b,o,i,j] = offset[o,i] + sum over c, k of w[o,c,k] x[b,c,i+k,j]

and the same with j in the place of i for the axis W (Fast-ParC, arXiv 2210.04020; the authors' code calls it global circular
convolution). All derivatives are again such correlations, so that `circular_correlation` can be differentiated any number of
times, and a backward pass keeps x and w alone, no spectra and no copies.

`direct` is a convolution of torch. The other ways of computing, `fft` and `gemm`, are files with the same functions:

.. code-block:: text

    compute_dtype(dtype of the map)                -> dtype to compute in
    prepare(weight (O, I, n), depthwise, dtype)    -> kernel: a spectrum, or a circulant matrix
    dense_channels(kernel, n)                      -> C_out of a dense kernel, None of a depthwise one
    correlate(x, kernel, axis)                     -> y, without offset
    write(x, kernel, offset or None, axis, out)       the same, plus offset, into ``out``
    kernel_gradient(x, gradient of y, depthwise, axis) -> (O, I, n)
"""
from contextlib import nullcontext
from typing import ContextManager, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tracing import is_symbolic, needs_plain
from . import fft, gemm
from .lines import Sums, as_map, dim_of, is_channels_last, parts

_WAYS = dict(fft=fft, gemm=gemm)


def circular_correlation(x: Tensor, weight: Tensor, offset: Optional[Tensor], axis: str, backend: str) -> Tensor:
    """Correlate every line of a map along one axis with a kernel as long as the line, circularly.

    Args:
        x: (B, C, H, W).
        weight: depthwise (C, 1, n), dense (C_out, C, n); n = H or W.
        offset: added to each line, (C_out, n), or None.
        axis: ``'H'`` or ``'W'``.
        backend: ``'direct'``, a convolution on the circularly extended map; ``'fft'``, products of spectra, at least in
            float32; ``'gemm'``, products with circulant matrices.

    Returns:
        (B, C_out, H, W), in the dtype and the memory format of x.
    """
    if backend == 'direct' or not is_symbolic(x.shape[0]) and x.shape[0] == 0:  # torch transforms no empty batch
        return _add(direct(x, weight, None, axis), offset, axis)
    return _correlate(x, weight, offset, weight.shape[:2] == (x.shape[1], 1), axis, backend)


def prepare(weight: Tensor, offset: Optional[Tensor], depthwise: bool, backend: str,
            dtype: torch.dtype) -> Tuple[Tensor, Optional[Tensor]]:
    """What a backend needs of a kernel, its spectrum or its circulant matrix, and the offset in the dtype to compute in.

    Args:
        weight: depthwise (C, 1, n), dense (C_out, C, n).
        offset: (C_out, n) or None.
        depthwise: which of the two forms the weight has.
        backend: ``'fft'`` or ``'gemm'``.
        dtype: dtype of the maps.
    """
    way = _WAYS[backend]
    dtype = way.compute_dtype(dtype)
    return way.prepare(weight, depthwise, dtype), None if offset is None else offset.to(dtype)


def correlate_prepared(x: Tensor,
                       kernel: Tensor,
                       offset: Optional[Tensor],
                       axis: str,
                       backend: str,
                       out: Optional[Tensor] = None) -> Tensor:
    """`circular_correlation` with a kernel from `prepare`, part by part and without a record for derivatives.

    Args:
        x: (B, C, H, W).
        kernel: from `prepare`.
        offset: from `prepare`.
        axis: ``'H'`` or ``'W'``.
        backend: ``'fft'`` or ``'gemm'``.
        out: (B, C_out, H, W), to be written; by default a new map in the memory format of x.
    """
    way, dtype = _WAYS[backend], _WAYS[backend].compute_dtype(x.dtype)
    channels = way.dense_channels(kernel, x.shape[dim_of(axis)])
    if out is None and channels in (None, x.shape[1]):
        out = torch.empty_like(x)
    elif out is None:
        memory_format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
        out = torch.empty(x.shape[0], channels, *x.shape[2:], dtype=x.dtype, device=x.device, memory_format=memory_format)
    for part in parts(x, axis, channels is None):
        way.write(x[part].to(dtype).contiguous(), kernel[part[1]] if channels is None else kernel,
                  None if offset is None else offset[part[1]], axis, out[part])
    return out


def direct(x: Tensor, weight: Tensor, bias: Optional[Tensor], axis: str) -> Tensor:
    """`circular_correlation` as the authors compute it: a convolution on the map followed by itself.

    Args:
        x: (B, C, H, W).
        weight: (C_out, C or 1, n).
        bias: (C_out, ) or None.
        axis: ``'H'`` or ``'W'``.
    """
    dim = dim_of(axis)
    n = x.shape[dim]
    if is_symbolic(n):  # torch fixes a length of n - 1 = 1
        extended = torch.cat([x, x], dim).narrow(dim, 0, 2 * n - 1)
    else:
        extended = torch.cat([x, x.narrow(dim, 0, n - 1)], dim)
    weight = (weight[..., None] if axis == 'H' else weight[:, :, None]).to(x.dtype)
    bias = bias if bias is None else bias.to(x.dtype)
    return F.conv2d(extended, weight, bias, groups=x.shape[1] // weight.shape[1])


def _correlate(x: Tensor, weight: Tensor, offset: Optional[Tensor], depthwise: bool, axis: str, backend: str) -> Tensor:
    if not needs_plain():
        return _Correlation.apply(x, weight, offset, depthwise, axis, backend)
    with no_autocast(x):
        kernel, offset = prepare(weight, offset, depthwise, backend, x.dtype)
        y = _WAYS[backend].correlate(x.to(_WAYS[backend].compute_dtype(x.dtype)), kernel, axis)
        return _add(y, offset, axis).to(x.dtype)


def _kernel_gradient(x: Tensor, grad: Tensor, depthwise: bool, dtype: torch.dtype, axis: str, backend: str) -> Tensor:
    if not needs_plain():
        return _KernelGradient.apply(x, grad, depthwise, dtype, axis, backend)
    with no_autocast(x):
        lines = (t.to(_WAYS[backend].compute_dtype(x.dtype)) for t in (x, grad))
        return _WAYS[backend].kernel_gradient(*lines, depthwise, axis).to(dtype)


class _Correlation(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, offset, depthwise, axis, backend):
        ctx.save_for_backward(x, weight)
        ctx.depthwise, ctx.axis, ctx.backend = depthwise, axis, backend
        ctx.offset_dtype = None if offset is None else offset.dtype
        with no_autocast(x):
            return correlate_prepared(x, *prepare(weight, offset, depthwise, backend, x.dtype), axis, backend)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        depthwise, axis, backend = ctx.depthwise, ctx.axis, ctx.backend
        needs_x, needs_weight, needs_offset = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_offset = None
        with no_autocast(x):
            transposed = _transposed(weight, depthwise) if needs_x else None
            if needs_x and needs_weight and backend == 'fft' and not (torch.is_grad_enabled() or needs_plain()):
                grad_x, grad_weight = fft.backward(x, weight, grad, transposed, depthwise, axis)
            else:
                if needs_x:
                    grad_x = _correlate(grad, transposed, None, depthwise, axis, backend)
                if needs_weight:
                    grad_weight = _kernel_gradient(x, grad, depthwise, weight.dtype, axis, backend)
            if needs_offset:
                grad_offset = grad.sum((0, 5 - dim_of(axis)), dtype=ctx.offset_dtype)
        return grad_x, grad_weight, grad_offset, None, None, None


class _KernelGradient(torch.autograd.Function):
    """gradient of the kernel: g[o,c,k] = sum over lines and i of grad[o,i] x[c,i+k]"""

    @staticmethod
    def forward(ctx, x, grad, depthwise, dtype, axis, backend):
        ctx.save_for_backward(x, grad)
        ctx.depthwise, ctx.axis, ctx.backend = depthwise, axis, backend
        way, compute_dtype = _WAYS[backend], _WAYS[backend].compute_dtype(x.dtype)
        sums = Sums()
        with no_autocast(x):
            for part in parts(x, axis, depthwise):
                lines = (t[part].to(compute_dtype).contiguous() for t in (x, grad))
                sums.add(part[1], way.kernel_gradient(*lines, depthwise, axis))
        return sums.all().to(dtype)

    @staticmethod
    def backward(ctx, h):
        x, grad = ctx.saved_tensors
        grad_x = grad_grad = None
        if ctx.needs_input_grad[0]:
            grad_x = _correlate(grad, _transposed(h, ctx.depthwise), None, ctx.depthwise, ctx.axis, ctx.backend)
        if ctx.needs_input_grad[1]:
            grad_grad = _correlate(x, h, None, ctx.depthwise, ctx.axis, ctx.backend)
        return grad_x, grad_grad, None, None, None, None


def _transposed(weight: Tensor, depthwise: bool) -> Tensor:
    """The kernel of the transposed correlation: (O, I, n) -> (I, O, n) with tap k where -k was; depthwise (C, 1, n) stays so."""
    weight = weight.flip(-1).roll(1, -1)
    return weight if depthwise else weight.transpose(0, 1)


def _add(y: Tensor, offset: Optional[Tensor], axis: str) -> Tensor:
    return y if offset is None else y + as_map(offset, axis).to(y.dtype)


def no_autocast(x: Tensor) -> ContextManager:
    """Operators keep the dtypes they are given, on the device of x."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()  # the meta device, say
