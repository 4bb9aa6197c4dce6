"""BatchNorm in evaluation, which scales and shifts channels, as part of the convolution before or behind it."""
from collections import Counter, defaultdict
from typing import Any, Callable, Dict, List, Optional

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from hybrid_mm.layers.global_local import GatedConv

from .flow import Call, Flow


def fold_norms(network: nn.Module, flow: Flow) -> int:
    """Fold BatchNorm layers into convolutions where a recorded run shows that this changes nothing but rounding; in place.

    A norm goes into the convolution in front of it if nothing else reads what that gives, and into the one behind it if nothing
    else reads what the norm gives and the convolution pads nothing: zeros around a map are not shifted. Convolution and norm have
    to be a pair in every call of either. The norm's place is left with an ``nn.Identity``.

    Returns:
        Number of norms that are gone.
    """
    owners = _owners(network)
    of_module: Dict[nn.Module, List[Call]] = defaultdict(list)
    for call in flow.calls:
        key = {'norm': 'running_mean', 'conv': 'weight', 'transposed': 'weight'}.get(call.kind)
        owner = owners.get(id(call.settings.get(key))) if key else None
        if owner is not None:
            of_module[owner].append(call)
    whole = {conv for conv, calls in of_module.items() if isinstance(conv, _ConvNd) and is_free(conv) and all(
        call.settings.get('bias') is conv.bias for call in calls)}
    gone = set()
    for norm in [m for m in of_module if isinstance(m, _BatchNorm) and _is_affine(m)]:
        calls = of_module[norm]
        if any(call.settings.get('training') for call in calls):
            continue
        conv = _only(owners.get(id(_weight(flow.producer.get(call.source)))) for call in calls)
        if conv in whole and len(of_module[conv]) == len(calls) and all(
                _reads(flow, call, norm, owners) for call in of_module[conv]) and (not conv.transposed or conv.groups == 1):
            _scale_output(conv, norm)
            gone.add(norm)
            continue
        readers = [reader for call in calls if (reader := flow.sole_reader(call)) is not None and reader.source == call.result]
        conv = _only(owners.get(id(_weight(reader))) for reader in readers)
        if conv in whole and len(of_module[conv]) == len(readers) == len(calls) and not conv.transposed and all(
                _pads_nothing(call) for call in of_module[conv]):
            _scale_input(conv, norm)
            gone.add(norm)
    for module in network.modules():
        # the windows between the two are cut and put together again, each channel for itself
        if isinstance(module, GatedConv) and isinstance(module.norm, _BatchNorm) and _is_affine(module.norm):
            _scale_output(module.depthwise, module.norm)
            gone.add(module.norm)
    replace(network, {norm: nn.Identity() for norm in gone})
    return len(gone)


def replace(network: nn.Module, others: Dict[nn.Module, nn.Module]) -> None:
    """Put other modules in the place of some, wherever these are."""
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if child in others:
                parent._modules[name] = others[child]


def _owners(network: nn.Module) -> Dict[int, nn.Module]:
    """Ids of parameters and buffers to the module that has them, without those that several have."""
    pairs = [(id(tensor), module) for module in network.modules()
             for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]
    shared = Counter(key for key, _ in pairs)
    return {key: module for key, module in pairs if shared[key] == 1}


def _is_affine(norm: _BatchNorm) -> bool:
    """Whether a norm does the same to each picture: it is in evaluation, with statistics of its own, and nobody listens to it."""
    return not norm.training and norm.running_mean is not None and norm.running_var is not None and is_free(norm)


def is_free(module: nn.Module) -> bool:
    """Whether nobody listens to what a module takes and gives."""
    return not module._forward_hooks and not module._forward_pre_hooks


def _reads(flow: Flow, call: Call, norm: nn.Module, owners: Dict[int, nn.Module]) -> bool:
    """Whether this norm is all that reads the result of a call."""
    reader = flow.sole_reader(call)
    return reader is not None and reader.kind == 'norm' and reader.source == call.result and owners.get(
        id(reader.settings.get('running_mean'))) is norm


def _weight(call: Optional[Call]) -> Any:
    return call.settings.get('weight') if call is not None and call.kind in ('conv', 'transposed') else None


def _only(modules: Any) -> Any:
    """The one module that all of these are."""
    found = set(modules)
    return found.pop() if len(found) == 1 else None


def _pads_nothing(call: Call) -> bool:
    padding = call.settings.get('padding', 0)
    return padding == 'valid' or not isinstance(padding, str) and not any([padding] if isinstance(padding, int) else padding)


def _scale_output(conv: _ConvNd, norm: _BatchNorm) -> None:
    conv.weight, conv.bias = _in_double(
        lambda *tensors: fuse_conv_bn_weights(*tensors[:4], norm.eps, *tensors[4:], transpose=conv.transposed),
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def _scale_input(conv: _ConvNd, norm: _BatchNorm) -> None:

    def fuse(weight: Tensor, bias: Optional[Tensor], mean: Tensor, var: Tensor, gain: Optional[Tensor],
             shift: Optional[Tensor]) -> Any:
        scale = torch.rsqrt(var + norm.eps) * (1. if gain is None else gain)
        shift = (0. if shift is None else shift) - mean * scale
        # (groups, outputs of a group, inputs of a group, positions)
        grouped = weight.flatten(2).unflatten(0, (conv.groups, -1))
        added = torch.einsum('goip,gi->go', grouped, shift.view(conv.groups, -1)).flatten()
        scaled = (grouped * scale.view(conv.groups, 1, -1, 1)).view(weight.shape)
        return scaled, added if bias is None else bias + added

    conv.weight, conv.bias = _in_double(
        fuse, conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)


def _in_double(function: Callable[..., Any], *tensors: Optional[Tensor]) -> Any:
    """Two parameters, computed in double precision, in the dtype of the first tensor."""
    like = tensors[0]
    made = function(*(None if t is None else t.detach().double() for t in tensors))
    return tuple(nn.Parameter(t.detach().to(like), requires_grad=False) for t in made)
