"""What sees through a network at the moment: a compiler, a tracer, an export or a transform. This file needs torch alone."""
import torch


def is_symbolic(*sizes: int) -> bool:
    """Whether one of the sizes is open in a graph that is being exported: no branch may depend on its value."""
    return any(isinstance(size, torch.SymInt) for size in sizes)


def is_traced() -> bool:
    """Whether torch compiles, exports, traces or transforms (`torch.func`) what runs, and so has to see plain operators."""
    return (torch.compiler.is_compiling() or torch.jit.is_tracing()
            or torch._C._are_functorch_transforms_active())  # what torch.autograd.Function asks, too
