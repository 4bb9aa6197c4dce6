"""Which way a transport is computed: `plain.py`, `blocks.py` or `fused.py`; and whether the last gives what the first gives.

The kernels of `fused.py` were run in Triton's interpreter and compiled for GPUs, but no run on a GPU is recorded. So before
they are used they have to agree with the plain path on a small input, on the device and in the form that is asked for.
"""
import warnings
from functools import lru_cache
from typing import Callable, List, Optional

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..tracing import needs_plain
from . import blocks, plain
from .definition import Prior, Similarity, position_prior_1d

Way = Callable[..., Tensor]

_TOLERANCE = 1e-4  # of the largest value: a hundred times what float32 makes of the comparison's input


def choose(values: Tensor, references: Tensor, similarity: Similarity, prior: Optional[Prior] = None,
           mask: Optional[Tensor] = None, backend: str = 'auto') -> Way:
    """The function that computes a transport: of `plain.py`, where the arguments are described, or one of equal arguments that
    needs few (n, m) arrays or none.

    The backend is 'plain'; 'triton' or 'blocks', always, or a RuntimeError if that cannot run; 'auto', Triton's kernels on CUDA
    and blocks on a CPU where they take the tensors, and of the kernels those that agree with the plain path. An empty batch is
    plain, and so is what torch compiles, traces, exports or transforms (`torch.func`): what is recorded has to run elsewhere.
    """
    if backend == 'plain' or needs_plain() or not values.numel():
        return plain.transport
    way = _kernels(values, references) if backend in ('auto', 'triton') else None
    if way is not None:
        form = values.device, similarity.kind, references.shape[1:], values.shape[-1], prior is not None, mask is not None
        if _agrees_with_plain(way, *form) or backend == 'triton':
            return way
    elif backend in ('auto', 'blocks') and blocks.available(values, similarity, prior):
        return blocks.transport
    if backend != 'auto':
        needs = {
            'triton': 'triton, a CUDA device, float32, at most 256 references and 128 channels a head, and room for them in '
                      'shared memory',
            'blocks': f'a CPU, and an exp(similarity / eps) in the range of float32, for which eps={similarity.eps} is too small '
                      'or the prior too narrow'}[backend]
        raise RuntimeError(f'backend={backend!r} cannot transport {values.dtype} values {tuple(values.shape)} on '
                           f"{values.device} through {references.shape[-2]} references; it needs {needs}; choose backend='auto'")
    return plain.transport


def _kernels(values: Tensor, references: Tensor) -> Optional[Way]:
    if not values.is_cuda:
        return None
    try:
        from . import fused
    except ImportError:  # no triton
        return None
    return fused.transport if fused.available(values, references) else None


@lru_cache(maxsize=None)
def _agrees_with_plain(way: Way, device: torch.device, kind: str, references: torch.Size, width: int, has_prior: bool,
                       has_mask: bool) -> bool:
    """Whether a way gives the plain path's outputs and gradients in one form of its kernels; a warning says what it does not.

    Each form is compared once a process, on two short sequences, with the plain path in float64.
    """
    (m, k), h = references, 2
    n = 2 * m + 50  # the tokens of a head are for more than one program

    def run(way: Way, dtype: torch.dtype) -> List[Tensor]:
        generator, shapes = torch.Generator().manual_seed(0), ((2, h, n, width), (2, h, n, k), (h, m, k), (2, h, n, width))
        inputs = [torch.randn(shape, generator=generator, dtype=torch.float64, device='cpu') for shape in shapes]
        *tensors, weight = [x.to(device, dtype).requires_grad_() for x in inputs]
        values, keys, references = tensors
        mask = torch.arange(n, device=device) < torch.tensor([[n], [n - 20]], device=device) if has_mask else None
        prior = position_prior_1d(n, m, 0.5, values, mask) if has_prior else None
        out = way(values, normalize(keys, dim=-1), normalize(references, dim=-1), Similarity(kind), 3, prior, mask)
        return [out.detach(), *torch.autograd.grad((out * weight).sum(), tensors)]

    names = 'the output', 'the gradient of the values', 'the gradient of the keys', 'the gradient of the references'
    try:
        # nothing of what surrounds this call: autocast, inference, and a checkpoint, which counts what is saved
        with torch.autocast(device.type, enabled=False), torch.inference_mode(False), torch.enable_grad(), \
                torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
            pairs = zip(run(way, torch.float32), run(plain.transport, torch.float64))
            errors = [((ours - theirs).abs().max() / theirs.abs().max()).item() for ours, theirs in pairs]
        wrong = [f'{name} differs by {error:.0e} of its largest value'
                 for name, error in zip(names, errors) if not error <= _TOLERANCE]
    except Exception as error:  # a kernel that does not compile or start, whatever its reason
        wrong = [f'they raise {type(error).__name__}: {(str(error).splitlines() or [""])[0]}']
    if wrong:
        warnings.warn(
            f'The Triton kernels of self-optimal transport do not agree with the plain path on {device}, with {m} references and '
            f"{width} channels a head: {', '.join(wrong)}. backend='auto' computes by the plain path instead, backend='triton' "
            'goes on with the kernels.', stacklevel=3)
    return not wrong
