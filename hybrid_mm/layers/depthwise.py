"""Depthwise convolution whose weights learn at the speed of its forward pass on CPUs.

oneDNN, PyTorch's library for CPUs, has a fast kernel for the gradient of depthwise weights up to three columns wide, and falls
back to a loop beyond. One core, 256 channels of 96x160 in channels_last, milliseconds: forward 5x5 4.9 in float32 and 2.4 in
bfloat16; the gradient of its weights 50 and 256; that of 5x3 weights 5.4 and 4.2. So wide kernels are cut into pieces of three
columns.
"""
from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tracing import autocast_dtype, needs_plain

_WIDEST = 3  # columns for which the library has a fast kernel; rows are not limited


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise ``nn.Conv2d`` of stride 1 that keeps the size of the map: the same parameters, outputs and gradients.

    Args:
        channels: C.
        kernel_size: side of the kernel, odd.
        bias: whether to add one number a channel.

    Shape:
        (B, C, H, W) -> (B, C, H, W).

    Raises:
        ValueError: ``kernel_size`` is even or below 1.
    """

    def __init__(self, channels: int, kernel_size: int, bias: bool = True) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f'kernel_size={kernel_size} is not allowed; choose an odd number, 1 or more')
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv2d(x, self.weight, self.bias)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """Depthwise convolution with zeros around the map, of stride 1 and an odd kernel (C, 1, kh, kw): (B, C, H, W) to the same."""
    padding = weight.shape[2] // 2, weight.shape[3] // 2
    learns = torch.is_grad_enabled() and weight.requires_grad
    if not learns or needs_plain() or not is_wide(x, weight, (1, 1), padding, (1, 1)):
        return F.conv2d(x, weight, bias, padding=padding, groups=len(weight))
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    return _Depthwise.apply(x, weight, bias)


class _Depthwise(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=(weight.shape[2] // 2, weight.shape[3] // 2), groups=len(weight))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (input_gradient(grad, weight) if of_x else None, weight_gradient(grad, x, weight) if of_weight else None,
                grad.sum((0, 2, 3)) if of_bias else None)


def is_wide(x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> bool:
    """Whether the gradients below are those of this depthwise convolution, and faster than torch's."""
    kh, kw = weight.shape[2:]
    return (kw > _WIDEST and kh % 2 == kw % 2 == 1 and x.device.type == 'cpu' and tuple(padding) == (kh // 2, kw // 2)
            and (x.shape[2] == kh == 1 or x.shape[3] >= kw // 2) and {*stride, *dilation} == {1})


def input_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient (B, C, H, W) of the input, from that of the output and the weights: a convolution with the kernel turned."""
    kh, kw = weight.shape[2:]
    return F.conv2d(grad, weight.flip(2, 3), padding=(kh // 2, kw // 2), groups=len(weight))


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """The gradient (C, 1, kh, kw) of the weights, from that of the output (B, C, H, W) and the input, a few columns at a time."""
    kh, kw = weight.shape[2:]
    if x.shape[2] == kh == 1:  # a row is a column as well: no pieces
        return _gradient(grad.transpose(2, 3), x.transpose(2, 3), weight.transpose(2, 3), (kw // 2, 0)).transpose(2, 3)
    pieces = -(-kw // _WIDEST)
    parts, column = [], 0
    for piece in range(pieces):
        width = (kw - column) // (pieces - piece)
        left = kw // 2 - column
        shifted = F.pad(x, (left, width - 1 - left)).contiguous(memory_format=_format_of(x))
        parts.append(_gradient(grad, shifted, weight[..., column:column + width], (kh // 2, 0)))
        column += width
    return torch.cat(parts, dim=3)


def _gradient(grad: Tensor, x: Tensor, weight: Tensor, padding: Tuple[int, int]) -> Tensor:
    return torch.ops.aten.convolution_backward(
        grad, x, weight.contiguous(), None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), [False, True, False])[1]


def _format_of(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
