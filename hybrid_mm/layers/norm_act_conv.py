"""A norm, an activation and a convolution that keep the input of the norm alone for the backward pass.

By themselves the three keep three maps: the inputs of the norm, of the activation and of the convolution. The latter two follow
from the first and from the statistics, so the backward pass computes them again, as In-Place ABN (Rota Bulò et al., arXiv
1712.02616) does with the activation. The gradients are those of the three layers.
"""
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .depthwise import DepthwiseConv2d, input_gradient, is_wide, weight_gradient
from .tracing import autocast_dtype, is_watched, needs_plain

IDENTITY = nn.Identity()  # the norm or the activation where there is none
_aten = torch.ops.aten
# activation -> output from input, in place or not; gradient of the input from that of the output, in place of it, and the input
_ACTIVATIONS: Dict[Type[nn.Module], Tuple[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    nn.SiLU: (F.silu, lambda grad, x: _aten.silu_backward(grad, x, grad_input=grad)),
    nn.ReLU: (F.relu, lambda grad, x: _aten.threshold_backward(grad, x, 0., grad_input=grad)),
    nn.ReLU6: (F.relu6, lambda grad, x: _aten.hardtanh_backward(grad, x, 0., 6., grad_input=grad)),
    nn.Identity: (lambda x, inplace=False: x, lambda grad, x: grad),
}


def norm_act_conv(x: Tensor, norm: nn.Module, act: nn.Module, conv: nn.Module) -> Tensor:
    """``conv(act(norm(x)))``, keeping x alone for the backward pass: (B, C, H, W) to what the convolution gives.

    It does so where the norm is a BatchNorm2d, with the statistics of the batch or its own, or Identity, the activation SiLU,
    ReLU, ReLU6 or Identity, and the convolution an ordinary one. Else, and where a hook listens to one of the three, they run as
    they are.
    """
    if not _keeps_input_alone(x, norm, act, conv):
        return conv(act(norm(x)))
    weight, bias, dtype = conv.weight, conv.bias, autocast_dtype(x)
    if dtype is not None:
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    if isinstance(norm, nn.Identity):
        return _ActConv.apply(x, weight, bias, type(act), conv)
    return _NormActConv.apply(x, norm.weight, norm.bias, weight, bias, norm, type(act), conv)


class _ActConv(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor], act: Type[nn.Module], conv: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.act = act
        ctx.conv = conv.stride, conv.padding, conv.dilation, conv.groups, None if bias is None else list(bias.shape)
        return F.conv2d(_ACTIVATIONS[act][0](x).to(weight.dtype), weight, bias, *ctx.conv[:4])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, weight = ctx.saved_tensors
        activate, gradient = _ACTIVATIONS[ctx.act]
        if torch.is_grad_enabled():  # somebody differentiates the gradients
            return (*_differentiably(ctx, grad, activate, x, weight), None, None)
        grad_x, grad_weight, grad_bias = _convolution_backward(
            grad, activate(x).to(weight.dtype), weight, ctx, ctx.needs_input_grad)
        return gradient(grad_x.to(x.dtype), x), grad_weight, grad_bias, None, None


class _NormActConv(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, weight: Tensor, bias: Optional[Tensor], norm: nn.BatchNorm2d,
                act: Type[nn.Module], conv: nn.Conv2d) -> Tensor:
        by_batch = norm.training or norm.running_mean is None
        y, mean, rstd = _aten.native_batch_norm(
            x, gamma, beta, norm.running_mean, norm.running_var, by_batch, _count_batch(norm), norm.eps)
        y = _ACTIVATIONS[act][0](y, inplace=True).to(weight.dtype)
        ctx.save_for_backward(x, gamma, beta, weight, *((mean, rstd) if by_batch else (norm.running_mean, norm.running_var)))
        ctx.by_batch, ctx.eps, ctx.act = by_batch, norm.eps, act
        ctx.conv = conv.stride, conv.padding, conv.dilation, conv.groups, None if bias is None else list(bias.shape)
        return F.conv2d(y, weight, bias, *ctx.conv[:4])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        x, gamma, beta, weight, mean, spread = ctx.saved_tensors
        if torch.is_grad_enabled():
            activate = _ACTIVATIONS[ctx.act][0]

            def before_conv(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
                its_own = (None, None) if ctx.by_batch else (mean, spread)
                return activate(F.batch_norm(x, its_own[0], its_own[1], gamma, beta, ctx.by_batch, 0., ctx.eps))

            return (*_differentiably(ctx, grad, before_conv, x, gamma, beta, weight), None, None, None)
        # spread is the variance of the running statistics, or 1 / sqrt(variance + eps) of the batch's
        variance = spread.pow(-2).sub_(ctx.eps) if ctx.by_batch else spread
        y = _aten.native_batch_norm(x, gamma, beta, mean, variance, False, 0., ctx.eps)[0]
        activate, gradient = _ACTIVATIONS[ctx.act]
        grad_y, grad_weight, grad_bias = _convolution_backward(
            grad, activate(y).to(weight.dtype), weight, ctx, ctx.needs_input_grad[2:])
        grad_y = gradient(grad_y.to(y.dtype), y)
        del y
        running, batch = ((None, None), (mean, spread)) if ctx.by_batch else ((mean, spread), (None, None))
        grad_x, grad_gamma, grad_beta = _aten.native_batch_norm_backward(
            grad_y, x, gamma, *running, *batch, ctx.by_batch, ctx.eps, ctx.needs_input_grad[:3])
        return grad_x, grad_gamma, grad_beta, grad_weight, grad_bias, None, None, None


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, ctx: Any,
                          needed: Sequence[bool]) -> Tuple[Tensor, Optional[Tensor], Optional[Tensor]]:
    """Gradients of the input, the weight and the bias; that of the input whether it is needed or not."""
    stride, padding, dilation, groups, bias = ctx.conv
    of_weight, of_bias = needed[1:3]
    if groups == len(weight) and of_weight and is_wide(x, weight, stride, padding, dilation):
        return input_gradient(grad, weight), weight_gradient(grad, x, weight), grad.sum((0, 2, 3)) if of_bias else None
    return _aten.convolution_backward(
        grad, x, weight, bias, stride, padding, dilation, False, [0, 0], groups, [True, of_weight, of_bias])


def _differentiably(ctx: Any, grad: Tensor, before_conv: Callable[..., Tensor], *tensors: Tensor) -> Tuple[Optional[Tensor], ...]:
    """Gradients by torch's own, which can be differentiated: of the tensors, the last of which is the weight, and of the bias."""
    *inputs, weight = tensors
    stride, padding, dilation, groups, bias_shape = ctx.conv
    bias = None if bias_shape is None else torch.zeros(bias_shape, dtype=weight.dtype, device=weight.device, requires_grad=True)
    out = F.conv2d(before_conv(*inputs).to(weight.dtype), weight, bias, stride, padding, dilation, groups)
    wanted = [tensor if needed else None for tensor, needed in zip((*tensors, bias), ctx.needs_input_grad)]
    gradients = iter(torch.autograd.grad(out, [tensor for tensor in wanted if tensor is not None], grad, create_graph=True))
    return tuple(None if tensor is None else next(gradients) for tensor in wanted)


def _count_batch(norm: nn.BatchNorm2d) -> float:
    """Count a batch in training, as BatchNorm2d does; the share that the running statistics take of its own."""
    if not (norm.training and norm.track_running_stats):
        return 0.
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            return 1. / float(norm.num_batches_tracked)
    return norm.momentum or 0.


def keeps_all(*containers: nn.Module) -> bool:
    """Whether layers run one by one, as in a container of them: nothing learns, plain operators are wanted, or a hook listens."""
    return not torch.is_grad_enabled() or needs_plain() or any(map(is_watched, containers))


def _keeps_input_alone(x: Tensor, norm: nn.Module, act: nn.Module, conv: nn.Module) -> bool:
    if type(norm) not in (nn.BatchNorm2d, nn.Identity) or type(act) not in _ACTIVATIONS or type(act) is type(norm):
        return False
    if type(conv) not in (nn.Conv2d, DepthwiseConv2d) or isinstance(conv.padding, str) or conv.padding_mode != 'zeros':
        return False
    if keeps_all(norm, act, conv):
        return False
    if isinstance(norm, nn.BatchNorm2d) and norm.weight is None or x.ndim != 4:
        return False
    if not (x.requires_grad or any(p.requires_grad for module in (norm, conv) for p in module.parameters(recurse=False))):
        return False
    # one value a channel, or none, is an error or a case of its own
    return x.numel() // x.shape[1] > 1
