"""Entropic optimal transport between tokens and a few references, and the exchange of values along its plan.

The functions behind `SelfOptimalTransport`, for unit vectors ``x`` (keys of n tokens) and ``y`` (m references) of every head:

.. code-block:: text

    L = (similarity of x and y - its largest value) / eps        (n, m), at most 0
    T = exp(L + f + g), rows sum to 1/n, columns to 1/m          Sinkhorn, rows first, columns last
    pool     A   = what each reference collects: the mean of v, weighted by its column of T * prior
    scatter  out = what each token gets back: the mean of A, weighted by its row of T * prior

Where no entry of L is so small that exp(L) leaves the range of float32, Sinkhorn needs products of matrices and vectors alone,
and no exponential but the one of L; `narrow` tells. Elsewhere it runs in the log domain. Both give the same plan.
`transport` runs in the kernels of `optimal_transport_triton.py` on CUDA and in the blocks of `optimal_transport_blocks.py` on a
CPU, where these take the tensors.

This file needs torch alone.
"""
import math
from typing import Callable, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# exp(-60) is 1e-26: twelve orders above the smallest normal float32, for the products that follow
NARROW = 60.

_GROUP = 4  # iterations whose parts of the kernel's gradient are added up in one product


class Similarity(NamedTuple):
    """How alike two unit vectors are, and how much that counts.

    gaussian: ``exp(-|x - y|^2 / (2 sigma^2))``, in (0, 1]; dot: ``x . y``, in [-1, 1]. ``eps`` is the weight of the entropy:
    the plan maximises similarity + eps * entropy.
    """
    kind: str = 'gaussian'
    sigma: float = 0.5
    eps: float = 0.1

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Unit vectors (..., n, d) and (..., m, d) to their similarity (..., n, m)."""
        dot = x @ y.transpose(-1, -2)
        return dot if self.kind == 'dot' else torch.exp((dot - 1) / self.sigma**2)

    def logits(self, x: Tensor, y: Tensor) -> Tensor:
        """Similarity in units of eps, less its largest possible value, so that nothing is above 0."""
        return (self(x, y) - 1) / self.eps

    def slope(self, x: Tensor, y: Tensor) -> Tensor:
        """Derivative of the logits by the inner products: (..., n, m), or what multiplies like it."""
        return x.new_tensor(1 / self.eps) if self.kind == 'dot' else self(x, y) / (self.eps * self.sigma**2)

    @property
    def span(self) -> float:
        """How far below 0 the logits can lie."""
        return (2. if self.kind == 'dot' else 1 - math.exp(-2 / self.sigma**2)) / self.eps

    def is_narrow(self, prior: Optional['Prior']) -> bool:
        """Whether exp(logits) times the prior stays in the range of float32, products of it and of vectors included."""
        return self.span + (prior.span if prior else 0.) <= NARROW


class Prior(NamedTuple):
    """Position prior ``exp(-|p - q|^2)`` between tokens at p and references at q, both in units of tau.

    ``tokens`` is (n, 2) or (B, n, 2), ``references`` (m, 2); ``span`` says how far below 0 the logarithm can lie.
    """
    tokens: Tensor
    references: Tensor
    span: float

    @property
    def log(self) -> Tensor:
        """(n, m), or (B, 1, n, m) where sequences differ."""
        x, y = (self.tokens[..., i, None] - self.references[:, i] for i in range(2))
        log = x.mul_(x).addcmul_(y, y).neg_()
        return log if log.ndim == 2 else log[:, None]


def position_prior_1d(length: int, num_references: int, tau: float, like: Tensor, mask: Optional[Tensor] = None) -> Prior:
    """Prior on flattened tokens: token i lies at i/n, reference j at j/m (arXiv 2401.03540; indices from 0).

    Args:
        length: tokens n.
        num_references: m.
        tau: width, as a share of the sequence.
        like: a tensor of the device and dtype wanted.
        mask: (B, n) bool, True for real tokens. Padding takes no place: token i of n real ones lies at i/n.
    """
    options = dict(dtype=like.dtype, device=like.device)
    q = torch.arange(num_references, **options) / (num_references * tau)
    if mask is None:
        p = torch.arange(length, **options) / (length * tau)
    else:
        number = (mask.cumsum(1) - 1).clamp(min=0).to(like.dtype)
        p = number / (mask.sum(1, keepdim=True).clamp(min=1) * tau)
    return Prior(torch.stack([p, torch.zeros_like(p)], -1), torch.stack([q, torch.zeros_like(q)], -1), tau**-2)


def position_prior_2d(size: Tuple[int, int], num_references: int, tau: float, like: Tensor) -> Prior:
    """Prior on a map: tokens and a square grid of references lie at the centres of their cells in [0, 1]^2.

    Args:
        size: height and width of the map, H * W = n.
        num_references: m, a square.
        tau: width, as a share of the side.
        like: a tensor of the device and dtype wanted.
    """

    def centres(length: int) -> Tensor:
        return (torch.arange(length, dtype=like.dtype, device=like.device) + 0.5) / (length * tau)

    side = math.isqrt(num_references)
    return Prior(torch.cartesian_prod(centres(size[0]), centres(size[1])), torch.cartesian_prod(centres(side), centres(side)),
                 2 * tau**-2)


def transport(values: Tensor,
              keys: Tensor,
              references: Tensor,
              similarity: Similarity,
              iterations: int,
              prior: Optional[Prior] = None,
              mask: Optional[Tensor] = None,
              backend: str = 'auto') -> Tensor:
    """Values of all tokens, exchanged through the references along the plan.

    Without prior this is ``n m T T^T V``, symmetric and positive semi-definite in the tokens; with a prior, both factors are
    normalised to weights that sum to 1.

    Args:
        values: V, (B, h, n, d).
        keys: unit vectors (B, h, n, k).
        references: unit vectors (h, m, k).
        similarity: of keys and references.
        iterations: of Sinkhorn.
        prior: position prior, or None.
        mask: (B, n) bool, True for real tokens; padding sends nothing and gets zeros. None: all are real.
        backend: see `fused_transport`.

    Returns:
        (B, h, n, d).
    """
    fused = fused_transport(values, references, similarity, prior, backend)
    if fused is not None:
        return fused(values, keys, references, similarity, iterations, prior, mask)
    logits = similarity.logits(keys, references)
    cells, (K, f, g) = _pool(values, logits, similarity.is_narrow(prior), iterations, prior, mask)
    if similarity.is_narrow(prior):  # here f and g are factors
        out = K @ (g[..., None] * cells)
        out = out / _times_columns(K, g)[..., None] if prior else out * (f * real_tokens(keys, mask))[..., None]
    elif prior:
        out = torch.softmax(K + g[..., None, :], -1) @ cells
    else:
        out = torch.exp(K + f[..., None] + g[..., None, :]) @ cells * real_tokens(keys, mask)[..., None]
    return out if mask is None else out * mask[:, None, :, None]


def fused_transport(values: Tensor,
                    references: Tensor,
                    similarity: Similarity,
                    prior: Optional[Prior] = None,
                    backend: str = 'auto') -> Optional[Callable[..., Tensor]]:
    """A function that computes `transport` with few (n, m) arrays or none, or None where it is computed plainly.

    Args:
        values: V, (B, h, n, d).
        references: (h, m, k).
        similarity: of keys and references.
        prior: position prior, or None.
        backend: 'auto', Triton's kernels on CUDA and blocks on a CPU where they take the tensors; 'triton' or 'blocks', always;
            'plain', never. While torch compiles, traces or exports, all are plain: what is recorded has to run elsewhere, too.

    Raises:
        RuntimeError: the backend is 'triton' or 'blocks' and cannot run.
    """
    if backend == 'plain' or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return None
    fused = _kernels(values, references) if backend in ('auto', 'triton') else None
    if fused is None and backend in ('auto', 'blocks'):
        from . import optimal_transport_blocks as blocks
        fused = blocks.transport_in_blocks if blocks.available(values, similarity, prior) else None
    if fused is None and backend != 'auto':
        needs = {
            'triton': 'triton, a CUDA device, float32, at most 256 references and 128 channels a head, and shared memory '
            'for them',
            'blocks': f'a CPU, and an exp(similarity / eps) in the range of float32, for which eps={similarity.eps} is too small '
            'or the prior too narrow'
        }
        raise RuntimeError(f'backend={backend!r} cannot transport {values.dtype} values {tuple(values.shape)} on '
                           f"{values.device} through {references.shape[-2]} references; it needs {needs[backend]}; choose backend='auto'")
    return fused


def _kernels(values: Tensor, references: Tensor) -> Optional[Callable[..., Tensor]]:
    if not values.is_cuda:
        return None
    try:
        from . import optimal_transport_triton as kernels
    except ImportError:  # no triton
        return None
    return kernels.transport_triton if kernels.available(values, references) else None


def pooled(values: Tensor,
           keys: Tensor,
           references: Tensor,
           similarity: Similarity,
           iterations: int,
           prior: Optional[Prior] = None,
           mask: Optional[Tensor] = None) -> Tensor:
    """What each reference collects, ``A = m T^T V`` without prior: (B, h, m, d). Arguments as of `transport`."""
    logits = similarity.logits(keys, references)
    return _pool(values, logits, similarity.is_narrow(prior), iterations, prior, mask)[0]


def plan(keys: Tensor,
         references: Tensor,
         similarity: Similarity,
         iterations: int,
         mask: Optional[Tensor] = None) -> Tensor:
    """The plan T before the prior, (B, h, n, m). Arguments as of `transport`."""
    logits = similarity.logits(keys, references)
    f, g = _sinkhorn(logits, iterations, mask, False)
    return torch.exp(logits + f[..., None] + g[..., None, :])


def row_entropy(plan: Tensor) -> Tensor:
    """Entropy of the rows of a plan as a share of the largest possible, log m: (..., n, m) -> (..., n), from 0 to 1."""
    weights = plan / plan.sum(-1, keepdim=True)
    return torch.special.entr(weights).sum(-1) / math.log(plan.shape[-1])


def real_tokens(keys: Tensor, mask: Optional[Tensor]) -> Tensor:
    """Real tokens of each sequence, to be multiplied with (B, h, n)."""
    if mask is None:
        return keys.new_tensor(keys.shape[-2])[None, None, None]
    return mask.sum(-1).to(keys.dtype)[:, None, None]


def row_sums(tokens: Tensor, mask: Optional[Tensor]) -> Tensor:
    """The plan's row sums, 1/n for each real token, to be multiplied with (B, h, n); for tokens (B, h, n, any) of a dtype."""
    n = tokens.shape[-2]
    if mask is None:
        return tokens.new_full((1, 1, n), 1 / n)
    real = (mask | ~mask.any(-1, keepdim=True))[:, None]  # padding alone is balanced as if it were real; its output is zeros
    return real / real.sum(-1, keepdim=True).to(tokens.dtype)


def _pool(values, logits, narrow, iterations, prior, mask):
    """Cells (B, h, m, d); and kernel with prior, f, g: as numbers to multiply if narrow, else as logarithms to add."""
    if narrow:
        K = torch.exp(logits)
        f, g = _sinkhorn(K, iterations, mask, True)
        if prior:
            K = K * torch.exp(prior.log)
        cells = (K.transpose(-1, -2) @ (f[..., None] * values)) / _times_rows(f, K)[..., None]
    else:
        f, g = _sinkhorn(logits, iterations, mask, False)
        K = logits + prior.log if prior else logits
        cells = torch.softmax(K + f[..., None], -2).transpose(-1, -2) @ values
    return cells, (K, f, g)


def _sinkhorn(kernel: Tensor, iterations: int, mask: Optional[Tensor], narrow: bool) -> Tuple[Tensor, Tensor]:
    """f (B, h, n) and g (B, h, m) such that the plan has its marginals, columns exactly; see `_Sinkhorn` for the forms."""
    rows = row_sums(kernel, mask)
    rows = rows if narrow else rows.log()
    form = Scaling if narrow else _LogDomain
    if torch.is_grad_enabled() and kernel.requires_grad:
        return _Sinkhorn.apply(kernel, rows, iterations, form)
    return form.solve(kernel, rows, iterations)[:2]


def _times_rows(f: Tensor, K: Tensor) -> Tensor:
    """``f K``: (..., n) and (..., n, m) to (..., m)."""
    return (f[..., None, :] @ K)[..., 0, :]


def _times_columns(K: Tensor, g: Tensor) -> Tensor:
    """``K g``: (..., n, m) and (..., m) to (..., n). As a row times a matrix, nine times faster on a CPU than the other way."""
    return (g[..., None, :] @ K.transpose(-1, -2))[..., 0, :]


class Scaling:
    """Sinkhorn on K = exp(L): the plan is ``f_i K_ij g_j``. A half step is one product of K and a vector."""

    @staticmethod
    def rows(K: Tensor, rows: Tensor, g: Tensor) -> Tensor:
        return rows / _times_columns(K, g)

    @classmethod
    def solve(cls, K: Tensor, rows: Tensor, iterations: int):
        m = K.shape[-1]
        past = [K.new_ones(*K.shape[:-2], m)]
        for _ in range(iterations):
            f = cls.rows(K, rows, past[-1])
            past.append(1 / (m * _times_rows(f, K)))
        return f, past[-1], past

    @classmethod
    def back(cls, K, rows, past, df, dg, dK=None):
        """Gradient of K from those of f and g, added to dK where that is given. The row factors are computed anew.

        Each iteration adds two products of a vector of n and one of m numbers to it. They are added up `_GROUP` iterations at
        a time, as adding them one by one reads and writes an array (n, m) each time.
        """
        left, right = [], []
        dK = None if dK is None else dK.flatten(0, 1)
        for i in range(len(past) - 1, 0, -1):
            before, g = past[i - 1], past[i]
            b = dg * (-K.shape[-1] * g * g)  # dg / d(column sum)
            sums, change = (torch.stack([before, b], -2) @ K.transpose(-1, -2)).unbind(-2)
            f = rows / sums
            df = change if df is None else change + df
            a = torch.where(rows > 0, -df * f * f / rows, 0)
            dg, df = _times_rows(a, K), None
            left += [f, a]
            right += [b, before]
            if i == 1 or len(left) == 2 * _GROUP:
                pair = torch.stack(left, -1).flatten(0, 1), torch.stack(right, -2).flatten(0, 1)
                dK = torch.bmm(*pair) if dK is None else dK.baddbmm_(*pair)
                left, right = [], []
        return dK.view(K.shape)


class _LogDomain:
    """Sinkhorn on the logits L: the plan is ``exp(L_ij + f_i + g_j)``. A half step is a sum of exponentials."""

    @staticmethod
    def rows(L: Tensor, rows: Tensor, g: Tensor) -> Tensor:
        return rows - torch.logsumexp(L + g[..., None, :], -1)

    @classmethod
    def solve(cls, L: Tensor, rows: Tensor, iterations: int):
        m = L.shape[-1]
        past = [L.new_zeros(*L.shape[:-2], m)]
        for _ in range(iterations):
            f = cls.rows(L, rows, past[-1])
            past.append(-math.log(m) - torch.logsumexp(L + f[..., None], -2))
        return f, past[-1], past

    @classmethod
    def back(cls, L, rows, past, df, dg):
        dL = torch.zeros_like(L)
        for i in range(len(past) - 1, 0, -1):
            before, g = past[i - 1], past[i]
            f = cls.rows(L, rows, before)
            weights = torch.exp(L + f[..., None] + g[..., None, :]) * (L.shape[-1] * dg)[..., None, :]
            dL -= weights
            df = df - weights.sum(-1)
            weights = torch.softmax(L + before[..., None, :], -1) * df[..., None]
            dL -= weights
            dg, df = -weights.sum(-2), torch.zeros_like(df)
        return dL


class _Sinkhorn(torch.autograd.Function):
    """The iterations with the exact gradient of what was computed, converged or not.

    The forward pass keeps the column factors g of each iteration, m numbers a head; the row factors f follow from them by half a
    step. So the memory of the backward pass does not grow with the iterations by more than that. The implicit gradient at
    the fixed point would need as little, but it is the gradient of a plan that a few iterations have not reached.
    """

    @staticmethod
    def forward(ctx, kernel, rows, iterations, form):
        f, g, past = form.solve(kernel, rows, iterations)
        ctx.form = form
        ctx.save_for_backward(kernel, rows, *past)
        return f, g

    @staticmethod
    @once_differentiable
    def backward(ctx, df, dg):
        kernel, rows, *past = ctx.saved_tensors
        return ctx.form.back(kernel, rows, past, df, dg), None, None, None
