"""What watches, records or casts what a network does at the moment: hooks, a compiler, a tracer, an export, autocast."""
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module
from torch.utils._pytree import tree_flatten

_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
_forced = False

# Set while something is compiled for all sizes: a compiler shows an open size as the number that it is at the moment.
open_sizes = False


def is_symbolic(*sizes: int) -> bool:
    """Whether one of the sizes is open in a graph that is being exported or compiled: no branch may depend on its value."""
    return open_sizes or any(isinstance(size, torch.SymInt) for size in sizes)


def is_traced() -> bool:
    """Whether torch compiles, exports or traces what runs: plain operators alone can be seen through."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def needs_plain() -> bool:
    """Whether plain operators alone may run: torch traces them, or torch.func or forward-mode derivatives transform them."""
    return _forced or is_traced() or torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


@contextmanager
def plain() -> Iterator[None]:
    """Within it all layers compute in plain operators, without the forms made for speed and memory, which they are equal to."""
    global _forced
    before, _forced = _forced, True
    try:
        yield
    finally:
        _forced = before


def autocast_dtype(x: Tensor) -> Optional[torch.dtype]:
    """The dtype that autocast computes products of this tensor in; None if it is off, or the tensor is in float64."""
    device = x.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and x.dtype != torch.float64
    return torch.get_autocast_dtype(device) if on else None


def is_watched(module: nn.Module) -> bool:
    """Whether a hook or a forward method of its own has to see a call of this module."""
    return ('forward' in vars(module) or any(getattr(module, hooks) for hooks in _HOOKS)
            or bool(torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
                    or torch_module._global_backward_hooks or torch_module._global_backward_pre_hooks))


def tensors_in(value: Any) -> List[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
