"""Self-optimal transport (SeT) in place of softmax attention, arXiv 2401.03540, of which no official code exists.

Every token sends its value to m references along the plan of an entropic optimal transport, and takes back what the references
have collected; the cost is linear in the number of tokens.
"""
import math
from contextlib import nullcontext
from typing import Any, ContextManager, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from ..attention import count_heads
from ..tracing import needs_plain
from . import plain
from .choice import choose
from .definition import Prior, Similarity, position_prior_1d, position_prior_2d

_SHORTEST = 1e-12  # length of a vector, as in F.normalize


class SelfOptimalTransport(nn.Module):
    """Multi-head self-optimal transport of tokens.

    .. code-block:: text

        v   = linear(x), split into heads of d channels
        T   = plan between v / |v| and references y / |y|: entropic optimal transport with uniform marginals
        A   = what each reference collects from the values, along T * M
        out = linear(what each token takes back from A, along T * M)

    The paper's: kernel similarity to references, the entropic plan, Sinkhorn, the prior M multiplied into the plan, collecting
    along it, Nyström features, references from K-means. This project's decisions, where the paper is silent or not public: the
    way back from references to tokens (after OTKE, whose surrogate plan between all pairs is ``m T T^T``), one projection for
    keys and values, weights along ``T * M`` that sum to 1, the prior on maps, and all default values.

    Args:
        channels: C, a multiple of ``head_dim``.
        num_references: m. Its cost is proportional; it does not depend on the number of tokens.
        head_dim: channels d of one head.
        similarity: 'gaussian', ``exp(-|x - y|^2 / (2 sigma^2))``, or 'dot', of unit vectors.
        sigma: bandwidth of 'gaussian'.
        eps: weight of the entropy. The smaller, the sharper the plan, and the more iterations it needs.
        iterations: of Sinkhorn, rows first, columns last: column sums are exact, row sums approximate.
        prior: '1d' on flattened tokens, as in the paper; '2d' on maps, with the references on a square grid; None.
        tau: width of the prior as a share of the sequence or side. At 0.1 it is local, at 0.5 it reaches most of the map.
        references: 'learnable', or 'frozen' as they are made or loaded.
        nystrom: transport Nyström features of the values, ``k(z, z)^(-1/2) k(z, v)``, with d learnable centres z.
        recompute: in training, compute the plan anew in the backward pass, and so keep no (n, m) array for it. The backends
            'blocks' and 'triton' do so always.
        backend: 'triton', kernels that store no (n, m) array, for CUDA in float32; 'blocks', blocks of tokens that stay in the
            cache of a CPU, where eps is not too small for products in place of logarithms; 'plain', operators on whole arrays;
            'auto', the one made for the device where it can run, else 'plain'. Before their first use the kernels are compared
            with 'plain' on a small input; where they differ a warning says so, and 'auto' takes 'plain', 'triton' does not.
        debug: report a plan that underflows as a FloatingPointError. So does ``torch.autograd.set_detect_anomaly(True)``.

    Shape:
        (B, n, C) -> (B, n, C).
    """

    def __init__(self, channels: int, num_references: int = 49, head_dim: int = 32, similarity: str = 'gaussian',
                 sigma: float = 1., eps: float = 0.03, iterations: int = 10, prior: Optional[str] = '1d', tau: float = 0.5,
                 references: str = 'learnable', nystrom: bool = False, recompute: bool = True, backend: str = 'auto',
                 debug: bool = False) -> None:
        super().__init__()
        self.num_heads = count_heads(channels, head_dim)
        for name, value, allowed in (('similarity', similarity, ('gaussian', 'dot')), ('prior', prior, ('1d', '2d', None)),
                                     ('references', references, ('learnable', 'frozen')),
                                     ('backend', backend, ('auto', 'plain', 'blocks', 'triton'))):
            if value not in allowed:
                raise ValueError(f'{name}={value!r} is unknown; choose from {", ".join(map(repr, allowed))}')
        for name, number in (('num_references', num_references), ('iterations', iterations)):
            if not isinstance(number, int) or number < 1:
                raise ValueError(f'{name}={number!r} is not allowed; choose a whole number, 1 or more')
        for name, width in (('eps', eps), ('sigma', sigma), ('tau', tau)):
            if not width > 0:
                raise ValueError(f'{name}={width} is not allowed; choose a number above 0')
        if prior == '2d' and math.isqrt(num_references)**2 != num_references:
            raise ValueError(f"num_references={num_references} is not allowed with prior='2d', which lays the references on a "
                             f'square grid; choose a square such as {math.isqrt(num_references)**2}, or another prior')
        self.similarity = Similarity(similarity, sigma, eps)
        self.num_references, self.iterations = num_references, iterations
        self.prior, self.tau = prior, tau
        self.recompute, self.backend, self.debug = recompute, backend, debug

        self.value = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

        def vectors(number: int, learns: bool = True) -> nn.Parameter:
            heads = torch.empty(self.num_heads, number, head_dim)
            for head in heads:
                nn.init.xavier_uniform_(head)
            return nn.Parameter(heads, requires_grad=learns)

        self.references = vectors(num_references, references == 'learnable')
        self.centres = vectors(head_dim) if nystrom else None

    def forward(self, x: Tensor, mask: Optional[Tensor] = None, size: Optional[Tuple[int, int]] = None) -> Tensor:
        """Exchange values between tokens: (B, n, C) -> (B, n, C).

        Args:
            x: the tokens; n may be below m.
            mask: (B, n) bool, True for real tokens. Padding takes no part, and gets the bias of the output projection.
            size: height and width of the map that the tokens are, row by row; needed for the prior '2d'.
        """
        v = self.value(x)
        with _full_precision(x):  # plans and their weights, 1/(nm), need float32's range
            values, keys, references = self._prepare(v)
            prior = self._prior(keys, mask, size)
            arguments = values, keys, references, self.similarity, self.iterations, prior, mask
            way = choose(values, references, self.similarity, prior, mask, self.backend)
            if way is plain.transport and self.recompute and torch.is_grad_enabled() and not needs_plain():
                out = checkpoint(way, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                out = way(*arguments)
            if not needs_plain() and (self.debug or torch.is_anomaly_enabled()) and not out.isfinite().all():
                # exp(L + f + g) balances whatever L is finite: a plan without mass in a row or column shows as infinity or NaN
                cause = 'its values are not finite' if keys.isfinite().all() else 'the tokens that came in are not finite'
                raise FloatingPointError(
                    f'the transport plan underflows: {cause}, at {self.extra_repr()}; choose a larger eps or tau')
        return self.proj(out.transpose(1, 2).flatten(2).to(v.dtype))  # (B, h, n, d) -> (B, n, C)

    def plan(self, x: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """The plan T of tokens (B, n, C), before the prior: (B, h, n, m), column sums 1/m, row sums about 1/n."""
        with _full_precision(x):
            _, keys, references = self._prepare(self.value(x.to(self.value.weight.dtype)))
            return plain.plan(keys, references, self.similarity, self.iterations, mask)

    def pooled(self, x: Tensor, mask: Optional[Tensor] = None, size: Optional[Tuple[int, int]] = None) -> Tensor:
        """The set that the references collect from tokens (B, n, C): A, (B, h, m, d). Arguments as for `forward`."""
        with _full_precision(x):
            values, keys, references = self._prepare(self.value(x.to(self.value.weight.dtype)))
            prior = self._prior(keys, mask, size)
            return plain.pool(values, keys, references, self.similarity, self.iterations, prior, mask)[0]

    def extra_repr(self) -> str:
        kind, sigma, eps = self.similarity
        return (f'num_heads={self.num_heads}, num_references={self.num_references}, similarity={kind!r}, sigma={sigma}, '
                f'eps={eps}, iterations={self.iterations}, prior={self.prior!r}, tau={self.tau}')

    def _prepare(self, v: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """Values and keys (B, h, n, d), and unit references (h, m, d), in float32 or float64."""
        v = v.to(torch.promote_types(v.dtype, torch.float32))
        values = v.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)  # (B, n, C) -> (B, h, n, d)
        keys = F.normalize(values, dim=-1) if needs_plain() else _Unit.apply(values)
        if self.centres is not None:  # features k(z, z)^(-1/2) k(z, x), whose inner products approximate the kernel
            centres = F.normalize(self.centres.to(v.dtype), dim=-1)
            values = self.similarity(keys, centres) @ _InverseRoot.apply(self.similarity(centres, centres))[0]
        return values, keys, F.normalize(self.references.to(v.dtype), dim=-1)

    def _prior(self, keys: Tensor, mask: Optional[Tensor], size: Optional[Tuple[int, int]]) -> Optional[Prior]:
        n = keys.shape[2]
        if self.prior == '1d':
            return position_prior_1d(n, self.num_references, self.tau, keys, mask)
        if self.prior is None:
            return None
        if size is None or size[0] * size[1] != n:
            raise ValueError(
                f"size={size} does not fit {n} tokens; prior='2d' needs the height and width of the map that the tokens are")
        return position_prior_2d(size, self.num_references, self.tau, keys)


class SelfOptimalTransport2d(SelfOptimalTransport):
    """`SelfOptimalTransport` of the positions of a map, with a prior on the map by default.

    Args:
        prior: '2d', '1d' on the rows one behind the other, or None.
        kwargs: these, and what comes before, see `SelfOptimalTransport`.

    Shape:
        (B, C, H, W) -> (B, C, H, W) at any H and W, channels_last.
    """

    def __init__(self, channels: int, *args: Any, prior: Optional[str] = '2d', **kwargs: Any) -> None:
        super().__init__(channels, *args, **dict(kwargs, prior=prior))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # a map has no padding, and knows its size
        H, W = x.shape[2:]
        tokens = x.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, H*W, C), a view if x is channels_last
        out = super().forward(tokens, size=(H, W))
        return out.unflatten(1, (H, W)).permute(0, 3, 1, 2)  # (B, H*W, C) -> (B, C, H, W)


class _Unit(torch.autograd.Function):
    """Vectors over their lengths, as ``F.normalize(x, dim=-1)`` with a third of the passes over memory in its backward.

    A vector of zeros, which has no direction, passes no gradient; normalize multiplies it by 1e12.
    """

    @staticmethod
    def forward(ctx, x):
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(_SHORTEST)
        unit = x / length
        ctx.save_for_backward(unit, length.masked_fill(length == _SHORTEST, torch.inf))
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        unit, length = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, unit)[..., None]
        return torch.addcmul(grad, unit, along, value=-1).div_(length)


def _full_precision(x: Tensor) -> ContextManager:
    # meta tensors, on which costs are counted, know no autocast
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


class _InverseRoot(torch.autograd.Function):
    """``A^(-1/2)`` of symmetric matrices, each eigenvalue l as 1 / (sqrt(max(l, 0)) + 0.01), as in the paper's parent, OTKE.

    Its gradient is finite where eigenvalues coincide, as those of a kernel of far centres nearly do; eigh's is not.
    """

    generate_vmap_rule = True  # for torch.func

    @staticmethod
    def forward(A):
        eigenvalues, U = torch.linalg.eigh(A)
        root = eigenvalues.clamp(min=0).sqrt()
        return (U / (root + 0.01)[..., None, :]) @ U.transpose(-1, -2), root, U

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])

    @staticmethod
    def backward(ctx, grad, *_):
        root, U = ctx.saved_tensors
        a, b = root[..., :, None], root[..., None, :]
        # divided differences of 1/(s + 0.01) over s^2: (f(a^2) - f(b^2)) / (a^2 - b^2) without the cancellation
        differences = -1 / ((a + 0.01) * (b + 0.01) * (a + b).clamp(min=1e-6))
        inner = U.transpose(-1, -2) @ (grad + grad.transpose(-1, -2)) / 2 @ U
        return U @ (inner * differences) @ U.transpose(-1, -2)
