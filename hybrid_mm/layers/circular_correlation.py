"""Circular correlation of maps along one axis, exact, in three ways. This file needs torch alone.

For a map x (B, C, H, W) and the axis H of length n, with indices modulo n:

.. code-block:: text

    depthwise   y[b,c,i,j] = offset[c,i] + sum over k of w[c,0,k] x[b,c,i+k,j]
    dense       y[b,o,i,j] = offset[o,i] + sum over c, k of w[o,c,k] x[b,c,i+k,j]

and the same with j in the place of i for the axis W (Fast-ParC, arXiv 2210.04020; the authors' code calls it global circular
convolution). All derivatives are again such correlations, so that `circular_correlation` can be differentiated any number of
times, and a backward pass keeps x and w alone, no spectra and no copies.
"""
import itertools
import math
from contextlib import nullcontext
from typing import Callable, ContextManager, Dict, Iterator, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .parc_crossovers import is_channels_last

# Values of a map that are worked on at a time. On a CPU the intermediates of a part should stay in its cache; a GPU wants few
# and large kernels.
_PART_VALUES = dict(cpu=2**20, cuda=2**27)


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
    if backend == 'direct':
        return _add(direct(x, weight, None, axis), offset, axis)
    kernel_dtype = _compute_dtype(x, backend)
    offset = offset if offset is None else offset.to(kernel_dtype)
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # plain operators, for a compiler to see through
        with no_autocast(x):
            y = BACKENDS[backend].correlate(x.to(kernel_dtype), BACKENDS[backend].prepare(weight, kernel_dtype), axis)
            return _add(y, offset, axis).to(x.dtype)
    return _Correlation.apply(x, weight, offset, axis, backend)


def prepare(weight: Tensor, backend: str, dtype: torch.dtype) -> Tensor:
    """What a backend needs of a kernel: its spectrum, or its circulant matrix.

    Args:
        weight: (C_out, C or 1, n).
        backend: ``'fft'`` or ``'gemm'``.
        dtype: dtype of the maps.
    """
    dtype = torch.float32 if backend == 'fft' and dtype.itemsize < 4 else dtype
    return BACKENDS[backend].prepare(weight, dtype)


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
        offset: (C_out, n) or None.
        axis: ``'H'`` or ``'W'``.
        backend: ``'fft'`` or ``'gemm'``.
        out: (B, C_out, H, W), to be written; by default a new map in the memory format of x.
    """
    impl, dtype = BACKENDS[backend], _compute_dtype(x, backend)
    dense = impl.is_dense(kernel)
    if out is None:
        out = torch.empty_like(x)
    for part in _parts(x, axis, dense):
        channels = part[1]
        impl.write(x[part].to(dtype).contiguous(), kernel if dense else kernel[channels],
                   None if offset is None else offset[channels], axis, out[part])
    return out


def direct(x: Tensor, weight: Tensor, bias: Optional[Tensor], axis: str) -> Tensor:
    """`circular_correlation` as the authors compute it: a convolution on the map followed by itself.

    Args:
        x: (B, C, H, W).
        weight: (C_out, C or 1, n).
        bias: (C_out, ) or None.
        axis: ``'H'`` or ``'W'``.
    """
    dim = _dim(axis)
    n = x.shape[dim]
    if isinstance(n, torch.SymInt):  # a graph for all sizes is being exported, for which torch fixes a length of n - 1 = 1
        extended = torch.cat([x, x], dim).narrow(dim, 0, 2 * n - 1)
    else:
        extended = torch.cat([x, x.narrow(dim, 0, n - 1)], dim)
    weight = (weight[..., None] if axis == 'H' else weight[:, :, None]).to(x.dtype)
    bias = bias if bias is None else bias.to(x.dtype)
    return F.conv2d(extended, weight, bias, groups=x.shape[1] // weight.shape[1])


class _Correlation(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x, weight, offset, axis, backend):
        ctx.save_for_backward(x, weight)
        ctx.axis, ctx.backend = axis, backend
        ctx.offset_dtype = None if offset is None else offset.dtype
        with no_autocast(x):
            return correlate_prepared(x, prepare(weight, backend, x.dtype), offset, axis, backend)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        axis, backend = ctx.axis, ctx.backend
        needs_x, needs_weight, needs_offset = ctx.needs_input_grad[:3]
        grad_x = grad_weight = grad_offset = None
        with no_autocast(x):
            if needs_x and needs_weight and backend == 'fft' and not torch.is_grad_enabled():
                grad_x, grad_weight = _fft_backward(x, weight, grad, axis)
            else:
                if needs_x:
                    grad_x = _Correlation.apply(grad, reversed_kernel(weight), None, axis, backend)
                if needs_weight:
                    grad_weight = _KernelGradient.apply(x, grad, weight.shape[1] == 1, weight.dtype, axis, backend)
            if needs_offset:
                grad_offset = grad.sum((0, 3 if axis == 'H' else 2), dtype=ctx.offset_dtype)
        return grad_x, grad_weight, grad_offset, None, None


class _KernelGradient(torch.autograd.Function):
    """gradient of the kernel: g[o,c,k] = sum over lines and i of grad[o,i] x[c,i+k]"""

    @staticmethod
    def forward(ctx, x, grad, depthwise, dtype, axis, backend):
        ctx.save_for_backward(x, grad)
        ctx.axis, ctx.backend = axis, backend
        impl, compute_dtype = BACKENDS[backend], _compute_dtype(x, backend)
        sums = _Sums()
        with no_autocast(x):
            for part in _parts(x, axis, not depthwise):
                lines = (t[part].to(compute_dtype).contiguous() for t in (x, grad))
                sums.add(part[1], impl.kernel_gradient(*lines, depthwise, axis))
        return sums.all().to(dtype)

    @staticmethod
    def backward(ctx, h):
        x, grad = ctx.saved_tensors
        grad_x = grad_grad = None
        if ctx.needs_input_grad[0]:
            grad_x = _Correlation.apply(grad, reversed_kernel(h), None, ctx.axis, ctx.backend)
        if ctx.needs_input_grad[1]:
            grad_grad = _Correlation.apply(x, h, None, ctx.axis, ctx.backend)
        return grad_x, grad_grad, None, None, None, None


def reversed_kernel(weight: Tensor) -> Tensor:
    """The kernel of the transposed correlation: (O, I, n) -> (I, O, n) with tap k where -k was; depthwise (C, 1, n) stays so."""
    weight = weight.flip(-1).roll(1, -1)
    return weight if weight.shape[1] == 1 else weight.transpose(0, 1)


# ---- fft ----


def _fft_prepare(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """depthwise (C, f), dense (f, C, C_out); conjugate, as it is a correlation"""
    spectrum = torch.fft.rfft(weight.to(dtype)).conj().resolve_conj()
    return spectrum[:, 0] if weight.shape[1] == 1 else spectrum.permute(2, 1, 0).contiguous()


def _fft_correlate(x: Tensor, kernel: Tensor, axis: str) -> Tensor:
    dim = _dim(axis)
    spectrum = torch.fft.rfft(x, dim=dim)
    spectrum = _fft_multiply(spectrum, kernel, axis)
    return torch.fft.irfft(spectrum, x.shape[dim], dim=dim)  # odd lengths need n


def _fft_write(x: Tensor, kernel: Tensor, offset: Optional[Tensor], axis: str, out: Tensor) -> None:
    _write_sum(_fft_correlate(x, kernel, axis), offset, axis, out)


def _fft_multiply(spectrum: Tensor, kernel: Tensor, axis: str) -> Tensor:
    if kernel.dim() == 2:
        factor = _as_map(kernel, axis)
        return spectrum * factor if torch.compiler.is_compiling() else spectrum.mul_(factor)
    lines = spectrum.movedim(_dim(axis), 0).permute(0, 3, 1, 2)  # (f, B, C, W) -> (f, W, B, C)
    f, W, B, C = lines.shape
    product = torch.bmm(lines.reshape(f, W * B, C), kernel)  # one matrix a frequency
    return product.view(f, W, B, -1).permute(0, 2, 3, 1).movedim(0, _dim(axis))


def _fft_kernel_gradient(x: Tensor, grad: Tensor, depthwise: bool, axis: str) -> Tensor:
    dim = _dim(axis)
    return _fft_cross(torch.fft.rfft(x, dim=dim), torch.fft.rfft(grad, dim=dim), x.shape[dim], depthwise, axis)


def _fft_cross(x: Tensor, grad: Tensor, n: int, depthwise: bool, axis: str) -> Tensor:
    """Kernel gradient (O, I, n) from the spectra of map and gradient."""
    if depthwise:
        cross = (grad.conj() * x).sum((0, 3 if axis == 'H' else 2))  # (C, f)
        return torch.fft.irfft(cross, n)[:, None]
    lines = [t.movedim(_dim(axis), 0).transpose(1, 2).flatten(2) for t in (grad, x)]  # (f, C, lines)
    cross = torch.bmm(lines[0].conj(), lines[1].transpose(1, 2))  # (f, C_out, C)
    return torch.fft.irfft(cross, n, dim=0).permute(1, 2, 0)


def _fft_backward(x: Tensor, weight: Tensor, grad: Tensor, axis: str) -> Tuple[Tensor, Tensor]:
    """Gradients of map and kernel, which share the spectrum of the incoming gradient."""
    dim, depthwise, dtype = _dim(axis), weight.shape[1] == 1, _compute_dtype(x, 'fft')
    n = x.shape[dim]
    kernel = _fft_prepare(reversed_kernel(weight), dtype)
    grad_x = torch.empty_like(x)
    sums = _Sums()
    for part in _parts(x, axis, not depthwise):
        spectrum = torch.fft.rfft(grad[part].to(dtype).contiguous(), dim=dim)
        sums.add(part[1], _fft_cross(torch.fft.rfft(x[part].to(dtype).contiguous(), dim=dim), spectrum, n, depthwise, axis))
        spectrum = _fft_multiply(spectrum, kernel[part[1]] if depthwise else kernel, axis)
        grad_x[part] = torch.fft.irfft(spectrum, n, dim=dim)
    return grad_x, sums.all().to(weight.dtype)


# ---- gemm ----
#
# A circulant matrix of even size n = 2m is [[A, B], [B, A]]. With s = x1 + x2 and d = x1 - x2, the halves of a line,
#     P = (A + B)/2 s,  Q = (A - B)/2 d,  y1 = P + Q,  y2 = P - Q,
# which is half the work; the kernel gradient halves in the same way.


def _gemm_prepare(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """depthwise (C, n, n), or where that pays (C, 2, n/2, n/2); dense (C_out * n, C * n)"""
    n = weight.shape[2]
    rows = n // 2 if _halves_pay(n) and weight.shape[1] == 1 else n
    steps = torch.arange(n, device=weight.device)
    matrix = weight[:, :, (steps - steps[:rows, None]) % n]  # [.., i, j] = weight[.., j - i]
    if weight.shape[1] > 1:
        return matrix.to(dtype).transpose(1, 2).flatten(2).flatten(0, 1)
    if rows == n:
        return matrix.to(dtype)[:, 0]
    A, B = matrix.tensor_split(2, 3)
    return torch.cat([(A + B) / 2, (A - B) / 2], 1).to(dtype)


def _gemm_correlate(x: Tensor, kernel: Tensor, axis: str) -> Tensor:
    if kernel.dim() == 4:
        P, Q = _halves(x, kernel, axis)
        return torch.cat([P + Q, P - Q], _dim(axis))
    if kernel.dim() == 3:
        return _multiply(kernel, x, axis)
    B, C, H, W = x.shape
    if axis == 'H':
        return (kernel @ x.reshape(B, C * H, W)).view(B, -1, H, W)
    return (kernel @ x.transpose(2, 3).reshape(B, C * W, H)).view(B, -1, W, H).transpose(2, 3)


def _gemm_write(x: Tensor, kernel: Tensor, offset: Optional[Tensor], axis: str, out: Tensor) -> None:
    if kernel.dim() < 4:
        return _write_sum(_gemm_correlate(x, kernel, axis), offset, axis, out)
    P, Q = _halves(x, kernel, axis)
    if offset is not None:
        first, second = _as_map(offset, axis).chunk(2, _dim(axis) - 1)
        P.add_((first + second) / 2)
        Q.add_((first - second) / 2)
    y1, y2 = out.chunk(2, _dim(axis))
    torch.add(P, Q, out=y1)
    torch.sub(P, Q, out=y2)


def _halves_pay(n: int) -> bool:
    return n % 2 == 0 and n >= 40  # below, two more passes over the map cost as much as the work that is saved


def _halves(x: Tensor, kernel: Tensor, axis: str) -> Tuple[Tensor, Tensor]:
    """P and Q"""
    x1, x2 = x.chunk(2, _dim(axis))
    return _multiply(kernel[:, 0], x1 + x2, axis), _multiply(kernel[:, 1], x1 - x2, axis)


def _multiply(matrices: Tensor, x: Tensor, axis: str) -> Tensor:
    """(C, n, n) times every line of (B, C, H, W)."""
    return matrices @ x if axis == 'H' else x @ matrices.transpose(1, 2)


def _gemm_kernel_gradient(x: Tensor, grad: Tensor, depthwise: bool, axis: str) -> Tensor:
    n = x.shape[_dim(axis)]
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


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """sum over lines of grad[i] x[j], (C, 1, i, j), at least in float32"""
    products = (grad @ x.transpose(2, 3)).sum(0)[:, None]
    return products.float() if products.dtype.itemsize < 4 else products


class Backend(NamedTuple):
    """One way to compute the correlation.

    Attributes:
        prepare: (weight (O, I, n), dtype) -> kernel.
        correlate: (x, kernel, axis) -> y, without offset.
        write: (x, kernel, offset or None, axis, out): the same, plus offset, into ``out``.
        kernel_gradient: (x, gradient of y, depthwise, axis) -> (O, I, n).
        is_dense: whether a kernel is of a dense correlation.
    """
    prepare: Callable
    correlate: Callable
    write: Callable
    kernel_gradient: Callable
    is_dense: Callable


BACKENDS = dict(
    fft=Backend(_fft_prepare, _fft_correlate, _fft_write, _fft_kernel_gradient, lambda kernel: kernel.dim() == 3),
    gemm=Backend(_gemm_prepare, _gemm_correlate, _gemm_write, _gemm_kernel_gradient, lambda kernel: kernel.dim() == 2))


def _parts(x: Tensor, axis: str, dense: bool) -> Iterator[Tuple[slice, slice, slice, slice]]:
    """Indices that divide a map into parts of bounded size: whole lines, cut where they lie together in memory."""
    limit = _PART_VALUES.get(x.device.type, 2**27)
    steps = list(x.shape)
    if not dense and not is_channels_last(x):
        cuts = 0, 1
    else:  # a part is copied first
        cuts, limit = (0, 3 if axis == 'H' else 2), limit // 4
    for dim in cuts:
        steps[dim] = 1
        steps[dim] = min(max(limit // math.prod(steps), 1), x.shape[dim])
    ranges = [[slice(start, start + step) for start in range(0, size, step)] for size, step in zip(x.shape, steps)]
    return itertools.product(*ranges)


class _Sums:
    """Kernel gradients of parts, summed for each range of channels."""

    def __init__(self) -> None:
        self.sums: Dict[int, Tensor] = {}

    def add(self, channels: slice, gradient: Tensor) -> None:
        first = channels.start
        self.sums[first] = self.sums[first] + gradient if first in self.sums else gradient

    def all(self) -> Tensor:
        return torch.cat([self.sums[first] for first in sorted(self.sums)])


def _dim(axis: str) -> int:
    return 2 if axis == 'H' else 3


def _as_map(line: Tensor, axis: str) -> Tensor:
    """(C, n) -> (C, n, 1) along H, (C, 1, n) along W"""
    return line[:, :, None] if axis == 'H' else line[:, None]


def _write_sum(y: Tensor, offset: Optional[Tensor], axis: str, out: Tensor) -> None:
    if offset is None:
        out.copy_(y)
    else:
        torch.add(y, _as_map(offset, axis), out=out)


def _add(y: Tensor, offset: Optional[Tensor], axis: str) -> Tensor:
    return y if offset is None else y + _as_map(offset, axis).to(y.dtype)


def _compute_dtype(x: Tensor, backend: str) -> torch.dtype:
    # torch transforms half precision on CUDA at powers of two alone, bfloat16 nowhere
    return torch.float32 if backend == 'fft' and x.dtype.itemsize < 4 else x.dtype


def no_autocast(x: Tensor) -> ContextManager:
    """Operators keep the dtypes they are given, on the device of x."""
    if torch.amp.is_autocast_available(x.device.type):
        return torch.autocast(x.device.type, enabled=False)
    return nullcontext()  # the meta device, say
