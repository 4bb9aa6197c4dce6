"""What is transported: how alike keys and references are, the prior on their positions, and the sums that a plan has.

For unit vectors ``x`` (keys of n tokens) and ``y`` (m references) of every head:

.. code-block:: text

    L = (similarity of x and y - its largest value) / eps        (n, m), at most 0
    T = exp(L + f + g), rows sum to 1/n, columns to 1/m          Sinkhorn, rows first, columns last
    pool     A   = what each reference collects: the mean of v, weighted by its column of T * prior
    scatter  out = what each token gets back: the mean of A, weighted by its row of T * prior
"""
import math
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor

# exp(-60) is 1e-26: twelve orders above the smallest normal float32, for the products that follow
NARROW = 60.


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

    ``tau`` is the width as a share of the sequence, ``like`` a tensor of the device and dtype wanted. Padding, where the
    mask (B, n) is False, takes no place: token i of n real ones lies at i/n.
    """
    options = dict(dtype=like.dtype, device=like.device)
    q = torch.arange(num_references, **options) / (num_references * tau)
    if mask is None:
        p = torch.arange(length, **options) / (length * tau)
    else:
        number = (mask.cumsum(1) - 1).clamp(min=0).to(like.dtype)
        # whole numbers times tau would be float32, whatever the tokens are
        lengths = mask.sum(1, keepdim=True).clamp(min=1).to(torch.promote_types(like.dtype, torch.float32))
        p = number / (lengths * tau)
    return Prior(torch.stack([p, torch.zeros_like(p)], -1), torch.stack([q, torch.zeros_like(q)], -1), tau**-2)


def position_prior_2d(size: Tuple[int, int], num_references: int, tau: float, like: Tensor) -> Prior:
    """Prior on a map (H, W): tokens and a square grid of references lie at the centres of their cells in [0, 1]^2.

    ``tau`` is the width as a share of the side, ``like`` a tensor of the device and dtype wanted.
    """

    def centres(*sides: int) -> Tensor:
        return torch.cartesian_prod(
            *((torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / (side * tau) for side in sides))

    side = math.isqrt(num_references)
    return Prior(centres(*size), centres(side, side), 2 * tau**-2)


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
