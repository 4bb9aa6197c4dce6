"""Matrix products whose weights lie as oneDNN, PyTorch's CPU library, wants them, together with the activation behind them.

As `torch.compile` does it with frozen weights, for eager networks and at any size. Measured on an EPYC with AVX-512, one thread:
a linear layer takes 0.80 to 0.97 of its time in float32 and 0.74 to 0.95 in bfloat16, and the activation costs no pass over
memory. Weights of convolutions are packed for 1x1 ones alone, as matrices: oneDNN lays the others out for one size of the map,
and at another one they take up to three times as long.
"""
from collections import defaultdict
from functools import lru_cache
from typing import Any, Dict, List, Optional, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_mm.layers.global_local import PointwiseConv1d
from hybrid_mm.layers.parc.kept import KeptKernels
from hybrid_mm.layers.tracing import needs_plain

from .flow import Call, Flow
from .folding import is_free, replace


def pack(network: nn.Module, flow: Flow) -> None:
    """Pack linear layers and 1x1 convolutions, fuse activations with them, and let others work in place; a network on a CPU.

    As `flow`, a recorded run, shows that nothing else reads the tensors in between. In place, and not to be undone.
    """
    if not is_available():
        return
    calls: Dict[nn.Module, List[Call]] = defaultdict(list)
    inside = set(network.modules())
    for call in flow.calls:
        if call.module in inside:
            calls[call.module].append(call)
    products = [module for module in calls if _packable(module, calls, flow)]
    fused: Dict[nn.Module, nn.Module] = {}  # product to the activation behind it
    for act in [module for module in calls if type(module) in _ATTRIBUTES and flow.plain.get(module) and is_free(module)]:
        before = [flow.producer.get(call.source) for call in calls[act]]
        if not all(b is not None and b.kind != 'other' and flow.sole_reader(b) is call for b, call in zip(before, calls[act])):
            continue
        modules = {b.module for b in before if b is not None}
        product = modules.pop() if len(modules) == 1 else None
        if product in products and len(calls[product]) == len(calls[act]):
            fused[product] = act
        elif hasattr(act, 'inplace'):
            act.inplace = True
    replace(network, {act: nn.Identity() for act in fused.values()})
    products += [module for module in network.modules() if isinstance(module, PointwiseConv1d)]
    for module in products:
        module.act = fused.get(module, nn.Identity())
        module._kept = KeptKernels()
        module.__class__ = next(packed for plain, packed in _KINDS.items() if isinstance(module, plain))


def is_available() -> bool:
    """Whether this PyTorch has oneDNN and its products with activations."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, '_linear_pointwise')


# activation -> arguments of oneDNN's product for it
_ATTRIBUTES: Dict[Type[nn.Module], Any] = {
    nn.Identity: lambda act: ('none', [], ''),
    nn.SiLU: lambda act: ('swish', [], ''),
    nn.ReLU: lambda act: ('relu', [], ''),
    nn.ReLU6: lambda act: ('hardtanh', [0., 6.], ''),
    nn.Hardswish: lambda act: ('hardswish', [], ''),
    nn.GELU: lambda act: ('gelu', [], act.approximate),
}


class _Packed(nn.Module):
    """A product with vectors in the last axis, and an activation; state and names are those of the plain layer."""
    weight: nn.Parameter
    bias: Optional[nn.Parameter]
    act: nn.Module
    _kept: KeptKernels

    def product(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        if (not _packs(x.dtype) or x.dtype != self.weight.dtype or x.device.type != 'cpu' or not x.numel() or needs_plain()
                or torch.is_autocast_enabled('cpu')):
            return self.act(F.linear(x, self.weight.flatten(1), self.bias))

        def make() -> Tuple[Tensor]:
            return (torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().flatten(1).contiguous()), )

        packed, = self._kept.get([self.weight], (x.dtype, ), make)
        return torch.ops.mkldnn._linear_pointwise(x, packed, self.bias, *_ATTRIBUTES[type(self.act)](self.act))


class _Linear(_Packed, nn.Linear):

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class _Pointwise1d(_Packed, PointwiseConv1d):

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x)


class _Pointwise2d(_Packed, nn.Conv2d):

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last):
            return self.act(super().forward(x))
        return self.product(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@lru_cache(maxsize=None)
def _packs(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in a dtype on this machine."""
    probes = {torch.bfloat16: '_is_mkldnn_bf16_supported', torch.float16: '_is_mkldnn_fp16_supported'}
    probe = getattr(torch.ops.mkldnn, probes[dtype], None) if dtype in probes else None
    return dtype == torch.float32 or probe is not None and probe()


_KINDS: Dict[Type[nn.Module], Type[nn.Module]] = {
    nn.Linear: _Linear, nn.Conv2d: _Pointwise2d, PointwiseConv1d: _Pointwise1d}


def _packable(module: nn.Module, calls: Dict[nn.Module, List[Call]], flow: Flow) -> bool:
    if not isinstance(module, (nn.Linear, nn.Conv2d)) or not flow.plain.get(module) or not is_free(module) or not all(
            call.settings.get('weight') is module.weight for call in calls[module]):
        return False
    if isinstance(module, nn.Conv2d):
        return (module.kernel_size == (1, 1) and module.stride == (1, 1) and module.groups == 1 and module.padding == (0, 0)
                and all(call.kind == 'conv' and call.is_last for call in calls[module]))
    return all(call.kind == 'linear' for call in calls[module])
