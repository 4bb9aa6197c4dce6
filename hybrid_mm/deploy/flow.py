"""Which operation of a network reads what another one gives, seen while the network runs. Needs torch alone."""
from collections import defaultdict
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hybrid_mm.layers.tracing import tensors_in

_KINDS = {torch.conv1d: 'conv', torch.conv2d: 'conv', torch.conv3d: 'conv', torch.conv_transpose1d: 'transposed',
          torch.conv_transpose2d: 'transposed', torch.conv_transpose3d: 'transposed', F.batch_norm: 'norm', F.linear: 'linear',
          F.layer_norm: 'fresh', F.group_norm: 'fresh', torch.add: 'fresh', Tensor.add: 'fresh', Tensor.__add__: 'fresh'}
# attributes and methods that tell of a tensor what no folding changes
_ABOUT = ('__get__', 'size', 'dim', 'numel', 'stride', 'is_contiguous', 'is_floating_point', 'get_device')
_POSITIONS = dict(
    conv=('input', 'weight', 'bias', 'stride', 'padding', 'dilation', 'groups'),
    transposed=('input', 'weight', 'bias', 'stride', 'padding', 'output_padding', 'groups', 'dilation'),
    norm=('input', 'running_mean', 'running_var', 'weight', 'bias', 'training', 'momentum', 'eps'),
    linear=('input', 'weight', 'bias'))


class Call(NamedTuple):
    """One call of an operation."""
    kind: str  # conv, transposed, norm or linear; fresh: another one whose result is a new tensor; other
    settings: Dict[str, Any]  # arguments by name, of the first four kinds
    source: int  # id of the first tensor that it reads, 0 if there is none
    result: Optional[int]  # id of the tensor that it gives
    module: Optional[nn.Module]  # the module without children in which it ran
    is_last: bool  # whether that tensor is a channels_last map


class Flow(TorchFunctionMode):
    """Calls of all operations while a network runs, and who reads which tensor; all tensors are kept as long as this is.

    Attributes:
        calls: in their order.
        producer: id of a tensor to the call that gave it.
        readers: id of a tensor to the calls that read more of it than its shape and the like; the network's outputs are read
            by None.
        plain: modules without children that did nothing but one operation, on their input, in each of their calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: List[Call] = []
        self.producer: Dict[int, Call] = {}
        self.readers: Dict[int, List[Optional[Call]]] = defaultdict(list)
        self.plain: Dict[nn.Module, bool] = {}
        self._kept: List[Tensor] = []
        self._within: Optional[Tuple[nn.Module, int]] = None  # module without children that runs, and the calls before it

    def run(self, network: nn.Module, function: Callable[[Tensor], Any], *images: Tensor) -> List[List[Tensor]]:
        """The tensors that a function, which runs the network, gives for each image."""
        leaves = [module for module in network.modules() if not any(module.children())]
        handles = [handle for module in leaves for handle in (
            module.register_forward_pre_hook(self._enter), module.register_forward_hook(self._leave))]
        outputs = []
        try:
            for image in images:
                with torch.no_grad(), self:
                    outputs.append(tensors_in(function(image)))
                for tensor in outputs[-1]:
                    self.readers[id(tensor)].append(None)
        finally:
            for handle in handles:
                handle.remove()
        return outputs

    def sole_reader(self, call: Call) -> Optional[Call]:
        """The one call that reads the result of another; None if there are several or none."""
        readers = [] if call.result is None else self.readers[call.result]
        return readers[0] if len(readers) == 1 else None

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Optional[dict] = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        is_tensor = isinstance(result, Tensor)
        if getattr(func, '__name__', '') in _ABOUT and not is_tensor:
            return result
        sources = tensors_in((args, kwargs))
        kind = _KINDS.get(func, 'other')
        first = sources[0] if sources else None
        is_last = (first is not None and first.ndim == 4 and first.shape[1] > 1
                   and first.is_contiguous(memory_format=torch.channels_last))
        call = Call(kind, {**dict(zip(_POSITIONS.get(kind, ()), args)), **kwargs}, 0 if first is None else id(first),
                    id(result) if is_tensor else None, self._within[0] if self._within else None, is_last)
        self.calls.append(call)
        for tensor in sources:
            self.readers[id(tensor)].append(call)
        for tensor in [*sources, *([result] if is_tensor else [])]:
            self._kept.append(tensor)
        if is_tensor and id(result) not in map(id, sources):
            self.producer[id(result)] = call
        return result

    def _enter(self, module: nn.Module, inputs: tuple) -> None:
        self._within = module, len(self.calls)

    def _leave(self, module: nn.Module, inputs: tuple, output: Any) -> None:
        calls = self.calls[self._within[1]:] if self._within and self._within[0] is module else []
        is_plain = len(calls) == 1 and len(inputs) == 1 and (calls[0].source, calls[0].result) == (id(inputs[0]), id(output))
        self.plain[module] = self.plain.get(module, True) and is_plain
        self._within = None
