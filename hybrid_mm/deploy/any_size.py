"""What ONNX has for maps of one size alone, in a form for all sizes. This file needs torch alone."""
from contextlib import contextmanager
from typing import Iterator, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair


class CellMeans(nn.Module):
    """``nn.AdaptiveAvgPool2d`` as two products of matrices: (B, C, H, W) -> (B, C, cells[0], cells[1])."""

    def __init__(self, cells: Tuple[int, int]) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        return _means(x.shape[2], self.cells[0], x) @ x @ _means(x.shape[3], self.cells[1], x).T


def _means(length: int, cells: int, like: Tensor) -> Tensor:
    """Weights of the mean over each cell of a line, (cells, length); cell i reaches from floor(i n/k) to ceil((i + 1) n/k)."""
    cell = torch.arange(cells, device=like.device)[:, None]
    start = torch.div(cell * length, cells, rounding_mode='floor')
    end = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode='floor')
    position = torch.arange(length, device=like.device)
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)


@contextmanager
def any_size(network: nn.Module) -> Iterator[None]:
    """Adaptive average pooling of a network in the form of `CellMeans`, as long as the block runs."""
    places = [(parent, name, child) for parent in network.modules() for name, child in parent.named_children()
              if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size not in (1, (1, 1))]
    try:
        for parent, name, child in places:
            setattr(parent, name, CellMeans(_pair(child.output_size)))
        yield
    finally:
        for parent, name, child in places:
            setattr(parent, name, child)
