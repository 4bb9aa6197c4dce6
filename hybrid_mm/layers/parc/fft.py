"""Circular correlation as a product of spectra (Fast-ParC, arXiv 2210.04020)."""
from typing import Optional, Tuple

import torch
from torch import Tensor

from ..tracing import needs_plain
from .lines import Sums, as_map, dim_of, parts, write_sum


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """At least float32: torch transforms half precision on CUDA at powers of two alone, bfloat16 nowhere."""
    return torch.float32 if dtype.itemsize < 4 else dtype


def prepare(weight: Tensor, depthwise: bool, dtype: torch.dtype) -> Tensor:
    """depthwise (C, f), dense (f, C, C_out); conjugate, as it is a correlation"""
    spectrum = torch.fft.rfft(weight.to(dtype)).conj().resolve_conj()
    return spectrum[:, 0] if depthwise else spectrum.permute(2, 1, 0).contiguous()


def dense_channels(kernel: Tensor, n: int) -> Optional[int]:
    """C_out of a dense kernel, None of a depthwise one"""
    return kernel.shape[2] if kernel.dim() == 3 else None


def correlate(x: Tensor, kernel: Tensor, axis: str) -> Tensor:
    dim = dim_of(axis)
    spectrum = _multiply(torch.fft.rfft(x, dim=dim), kernel, axis)
    return torch.fft.irfft(spectrum, x.shape[dim], dim=dim)  # odd lengths need n


def write(x: Tensor, kernel: Tensor, offset: Optional[Tensor], axis: str, out: Tensor) -> None:
    write_sum(correlate(x, kernel, axis), offset, axis, out)


def kernel_gradient(x: Tensor, grad: Tensor, depthwise: bool, axis: str) -> Tensor:
    dim = dim_of(axis)
    return _cross(torch.fft.rfft(x, dim=dim), torch.fft.rfft(grad, dim=dim), x.shape[dim], depthwise, axis)


def backward(x: Tensor, weight: Tensor, grad: Tensor, transposed: Tensor, depthwise: bool, axis: str) -> Tuple[Tensor, Tensor]:
    """Gradients of map and kernel, which share the spectrum of the incoming gradient.

    Args:
        x: (B, C, H, W).
        weight: (C_out, C or 1, n).
        grad: (B, C_out, H, W).
        transposed: the kernel of the transposed correlation, (C, C_out or 1, n).
        depthwise: which of the two forms they have.
        axis: ``'H'`` or ``'W'``.
    """
    dim, dtype = dim_of(axis), compute_dtype(x.dtype)
    n = x.shape[dim]
    kernel = prepare(transposed, depthwise, dtype)
    grad_x = torch.empty_like(x)
    sums = Sums()
    for part in parts(x, axis, depthwise):
        spectrum = torch.fft.rfft(grad[part].to(dtype).contiguous(), dim=dim)
        sums.add(part[1], _cross(torch.fft.rfft(x[part].to(dtype).contiguous(), dim=dim), spectrum, n, depthwise, axis))
        spectrum = _multiply(spectrum, kernel[part[1]] if depthwise else kernel, axis)
        grad_x[part] = torch.fft.irfft(spectrum, n, dim=dim)
    return grad_x, sums.all().to(weight.dtype)


def _multiply(spectrum: Tensor, kernel: Tensor, axis: str) -> Tensor:
    if kernel.dim() == 2:
        factor = as_map(kernel, axis)
        return spectrum * factor if needs_plain() else spectrum.mul_(factor)
    lines = spectrum.movedim(dim_of(axis), 0).permute(0, 3, 1, 2)  # (f, B, C, W) -> (f, W, B, C)
    f, W, B, C = lines.shape
    product = torch.bmm(lines.reshape(f, W * B, C), kernel)  # one matrix a frequency
    return product.view(f, W, B, -1).permute(0, 2, 3, 1).movedim(0, dim_of(axis))


def _cross(x: Tensor, grad: Tensor, n: int, depthwise: bool, axis: str) -> Tensor:
    """Kernel gradient (C_out, C or 1, n) from the spectra of map and gradient."""
    if depthwise:
        cross = (grad.conj() * x).sum((0, 5 - dim_of(axis)))  # (C, f)
        return torch.fft.irfft(cross, n)[:, None]
    lines = [t.movedim(dim_of(axis), 0).transpose(1, 2).flatten(2) for t in (grad, x)]  # (f, C, lines)
    cross = torch.bmm(lines[0].conj(), lines[1].transpose(1, 2))  # (f, C_out, C)
    return torch.fft.irfft(cross, n, dim=0).permute(1, 2, 0)
