"""Stochastic depth."""
import torch
from torch import Tensor, nn

from .tracing import is_watched, needs_plain


class DropPath(nn.Module):
    """Drops a residual branch in training, for each picture of a batch by itself (stochastic depth, arXiv 1603.09382).

    What is kept is divided by the share that is kept. Random numbers are drawn as mmcv's DropPath draws them, so a seed drops
    the same pictures. In evaluation, or at a rate of 0, nothing changes.

    Args:
        drop_prob: share of the pictures that lose the branch.

    Shape:
        (B, ...) -> (B, ...).

    Raises:
        ValueError: ``drop_prob`` is below 0, or 1 or more.
    """

    def __init__(self, drop_prob: float = 0.1) -> None:
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise ValueError(f'drop_prob={drop_prob} is not allowed; choose a number from 0 to below 1')
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if self.drop_prob == 0 or not self.training:
            return x
        return x.div(1 - self.drop_prob) * self._kept(x)

    def add(self, x: Tensor, branch: Tensor) -> Tensor:
        """``x + drop_path(branch)`` in one pass over memory."""
        if self.drop_prob == 0 or not self.training or needs_plain() or is_watched(self):
            return x + self(branch)
        return torch.addcmul(x, branch, self._kept(branch).div_(1 - self.drop_prob))

    def _kept(self, x: Tensor) -> Tensor:
        """1 for each picture of a batch that keeps the branch, 0 for each that loses it, (B, 1, ...)."""
        numbers = torch.rand((x.shape[0], ) + (1, ) * (x.ndim - 1), dtype=x.dtype, device=x.device)
        return (1 - self.drop_prob + numbers).floor()

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob}'
