"""LayerNorm for maps."""
from typing import Any, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .tracing import needs_plain

_ALIKE = 1 - 1e-5  # rstd over its largest value, eps^-1/2: above this the variance is less than 2e-5 of eps


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each position, with ``eps`` added to the variance (as ConvNeXt's, arXiv 2201.03545).

    A position whose channels are all alike, as the zeros of padded pictures are in a network without biases, passes no gradient
    to the input. It would be multiplied by ``eps ** -0.5``, a thousand, in each norm on its way.

    Shape:
        (B, channels, H, W) -> (B, channels, H, W), channels_last.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # a view if x is channels_last
        if not x.requires_grad or not torch.is_grad_enabled() or needs_plain():
            return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
        if x.is_cuda and torch.is_autocast_enabled():
            x = x.float()  # as autocast does for F.layer_norm on CUDA
        return _LayerNorm.apply(x, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class _LayerNorm(torch.autograd.Function):
    """F.layer_norm over the last axis, without a gradient of vectors that are constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.limit = _ALIKE * eps**-0.5
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        rstd = rstd * (rstd < ctx.limit)
        return (*torch.ops.aten.native_layer_norm_backward(
            grad, x, weight.shape, mean, rstd, weight, bias, ctx.needs_input_grad[:3]), None)
