"""A map (B, C, H, W) as lines along one axis: what the ways of computing a circular correlation share."""
import itertools
import math
from typing import Dict, Iterator, Optional, Tuple

import torch
from torch import Tensor

# Values of a map that are worked on at a time. On a CPU the intermediates of a part should stay in its cache; a GPU wants few
# and large kernels.
_PART_VALUES = dict(cpu=2**20, cuda=2**27)


def dim_of(axis: str) -> int:
    """The dimension of a map that an axis, ``'H'`` or ``'W'``, is."""
    return 2 if axis == 'H' else 3


def as_map(line: Tensor, axis: str) -> Tensor:
    """(C, n) -> (C, n, 1) along H, (C, 1, n) along W."""
    return line[:, :, None] if axis == 'H' else line[:, None]


def write_sum(y: Tensor, offset: Optional[Tensor], axis: str, out: Tensor) -> None:
    """Write y and an offset (C, n), if there is one, into ``out``."""
    if offset is None:
        out.copy_(y)
    else:
        torch.add(y, as_map(offset, axis), out=out)


def is_channels_last(x: Tensor) -> bool:
    """Do the channels of a position lie side by side in memory? A slice of the channels counts."""
    return x.stride(1) == 1 and x.shape[1] > 1


def parts(x: Tensor, axis: str, depthwise: bool) -> Iterator[Tuple[slice, slice, slice, slice]]:
    """Indices that divide a map into parts of bounded size: whole lines, cut where they lie together in memory.

    For a dense correlation they index the output, too: all channels are then in each part.
    """
    limit = _PART_VALUES.get(x.device.type, 2**27)
    steps = list(x.shape)
    if depthwise and not is_channels_last(x):
        cuts = 0, 1
    else:  # a part is copied first
        cuts, limit = (0, 5 - dim_of(axis)), limit // 4
    for dim in cuts:
        steps[dim] = 1
        steps[dim] = max(min(limit // max(math.prod(steps), 1), x.shape[dim]), 1)
    ranges = [[slice(start, start + step) for start in range(0, size, step)] for size, step in zip(x.shape, steps)]
    if not depthwise:
        ranges[1] = [slice(None)]
    return itertools.product(*ranges)


class Sums:
    """Kernel gradients of parts, summed for each range of channels."""

    def __init__(self) -> None:
        self.sums: Dict[int, Tensor] = {}

    def add(self, channels: slice, gradient: Tensor) -> None:
        first = channels.start or 0
        self.sums[first] = self.sums[first] + gradient if first in self.sums else gradient

    def all(self) -> Tensor:
        return torch.cat([self.sums[first] for first in sorted(self.sums)])
