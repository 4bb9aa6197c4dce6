"""A sum that goes into a 1x1 convolution, not kept for the backward pass."""
from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tracing import autocast_dtype, is_watched, needs_plain


def add_conv(a: Tensor, b: Tensor, conv: nn.Conv2d) -> Tensor:
    """``conv(a + b)`` for a 1x1 convolution, (B, C, H, W) to (B, C_out, H, W).

    The backward pass adds the two again, which pays where both are kept anyway, as what attention gives and takes is.
    """
    learns = torch.is_grad_enabled() and conv.weight.requires_grad and (a.requires_grad or b.requires_grad)
    if type(conv) is not nn.Conv2d or conv.kernel_size != (1, 1) or not learns or needs_plain() or is_watched(conv):
        return conv(a + b)
    weight, bias, dtype = conv.weight, conv.bias, autocast_dtype(a)
    if dtype is not None:
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    return _AddConv.apply(a, b, weight, bias)


class _AddConv(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(a, b, weight)
        return F.conv2d((a + b).to(weight.dtype), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        a, b, weight = ctx.saved_tensors
        of_a, of_b, _, of_bias = ctx.needs_input_grad
        of_sum, of_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, (a + b).to(weight.dtype), weight, [len(weight)], [1, 1], [0, 0], [1, 1], False, [0, 0], 1,
            [True, True, of_bias])
        return of_sum.to(a.dtype) if of_a else None, of_sum.to(b.dtype) if of_b else None, of_weight, grad_bias
