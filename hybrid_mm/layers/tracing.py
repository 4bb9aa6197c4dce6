"""What records a network at the moment, if anything does: a compiler, a tracer or an export."""
import torch
from torch.autograd import forward_ad

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
    return is_traced() or torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0
