"""True MACs and parameters of GLiT's candidates by formulae, arXiv 2107.02960.

MACs are multiply-accumulates of convolutions, linear layers and attention's two products, with what padding of windows adds:
what is computed. The authors' counter leaves out the gate half of the gated convolutions; it is here for comparison with
published figures.

A counter in PyTorch does not see fused attention, and building a network for each of thousands of candidates is slow. Costs of
blocks add up, so the smallest and the largest cost of a space are found without enumerating it.

This file needs the standard library alone.
"""
import math
from functools import lru_cache
from typing import List, Optional, Sequence, Tuple, Union

from .space import GROUPS, Candidate, Row, SearchSpace

_PATCH_SIZE = 16
_GRID = 14  # patches a side at 224 x 224 pixels
_GATE_FACTORS = dict(true=2, authors=1)


class CostModel:
    """Costs of GLiT with a candidate's blocks, at one image size.

    Args:
        embed_dims: D, a multiple of 3.
        mode: ``'image'``, one sequence with a class token, or ``'dense'``, a map in windows.
        image_size: height and width in pixels, or one number for both.
        window_size, global_blocks: see `hybrid_mm.GLiT`.
        num_classes: classes of the linear classifier that counts with the network; 0 for none. What a dense network has behind
            its backbone is the same for all candidates and is not counted.
        in_channels: channels of the image.
        num_outputs: outputs of the backbone, with a LayerNorm each; by default 1 in image mode, 4 in dense mode. Give 0 for a
            backbone with ``out_norm=False``.

    Raises:
        ValueError: an argument is outside of what is allowed.
    """

    def __init__(self, embed_dims: int = 192, mode: str = 'image', image_size: Union[int, Sequence[int]] = 224,
                 window_size: int = _GRID, global_blocks: Union[Sequence[int], str] = (3, 6, 9, 11), num_classes: int = 0,
                 in_channels: int = 3, num_outputs: Optional[int] = None) -> None:
        if embed_dims < 1 or embed_dims % GROUPS:
            raise ValueError(f'embed_dims={embed_dims} is not allowed; choose a multiple of {GROUPS}')
        if mode not in ('image', 'dense'):
            raise ValueError(f"mode={mode!r} is unknown; choose from 'dense', 'image'")
        size = (image_size, ) * 2 if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2 or not all(isinstance(side, int) and side >= _PATCH_SIZE for side in size):
            raise ValueError(f'image_size={image_size} is not allowed; give height and width in pixels, {_PATCH_SIZE} or more')
        if window_size < 1:
            raise ValueError(f'window_size={window_size} is not allowed; choose 1 or more')
        if isinstance(global_blocks, str) and global_blocks != 'all':
            raise ValueError(f"global_blocks={global_blocks!r} is not allowed; give numbers of blocks, or 'all'")
        self.embed_dims = embed_dims
        self.mode = mode
        self.image_size = size
        self.window_size = window_size
        self.global_blocks = global_blocks
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.num_outputs = num_outputs if num_outputs is not None else (1 if mode == 'image' else 4)
        self.map_size = tuple(-(-side // _PATCH_SIZE) for side in size)  # h, w
        self.num_tokens = math.prod(self.map_size) + (mode == 'image')
        self.block_macs = lru_cache(maxsize=None)(self._block_macs)

    def macs(self, candidate: Candidate, counter: str = 'true') -> int:
        """MACs of an image, stem and classifier included.

        Args:
            candidate: rows (G, L, K, E, d_k, d_z).
            counter: ``'true'``, or ``'authors'``, which leaves out the gate half of the convolutions.
        """
        blocks = sum(self.block_macs(row, self._is_global(i), counter) for i, row in enumerate(candidate))
        return self._fixed_macs() + blocks

    def parameters(self, candidate: Candidate) -> int:
        """Parameters, stem, output norms and classifier included."""
        return self._fixed_parameters() + sum(map(self._block_parameters, candidate))

    def macs_of_options(self, number: int, rows: Sequence[Row]) -> List[int]:
        """MACs of a block with each of some rows."""
        return [self.block_macs(row, self._is_global(number), 'true') for row in rows]

    def range(self, space: SearchSpace) -> Tuple[int, int]:
        """Smallest and largest MACs of a candidate of a space."""
        macs = [self.macs_of_options(i, rows) for i, rows in enumerate(space.choices)]
        return self._fixed_macs() + sum(map(min, macs)), self._fixed_macs() + sum(map(max, macs))

    def check_limit(self, limit: Optional[int], space: SearchSpace, name: str = 'the space') -> None:
        """See that a candidate of the space, which the message calls by its name, keeps within a limit of MACs.

        Raises:
            ValueError: none does; the message says the smallest possible.
        """
        smallest, _ = self.range(space)
        if limit is not None and limit < smallest:
            # rounded up, so that the printed number is allowed
            raise ValueError(f'the limit of {limit / 1e9:g} G MACs is below every candidate of {name}; the smallest possible '
                             f'is {math.ceil(smallest / 1e3) / 1e6:.6f} G')

    def _is_global(self, number: int) -> bool:
        return self.mode == 'image' or self.global_blocks == 'all' or number in self.global_blocks

    def _fixed_macs(self) -> int:
        patches = math.prod(self.map_size)
        return self.in_channels * self.embed_dims * _PATCH_SIZE**2 * patches + self.embed_dims * self.num_classes

    def _fixed_parameters(self) -> int:
        D = self.embed_dims
        stem = D * (self.in_channels * _PATCH_SIZE**2 + 1) + _GRID**2 * D + (2 * D if self.mode == 'image' else 0)
        return stem + 2 * D * self.num_outputs + (D + 1) * self.num_classes

    def _block_macs(self, row: Row, is_global: bool, counter: str) -> int:
        if counter not in _GATE_FACTORS:
            raise ValueError(f'counter={counter!r} is unknown; choose from {", ".join(_GATE_FACTORS)}')
        C_v, C_c, q, e, m = _widths(row, self.embed_dims)
        N = self.num_tokens
        attention = N * 4 * C_v * q + 2 * self._attended_pairs(is_global) * q
        convolution = N * (_GATE_FACTORS[counter] + 1) * C_c * e + self._convolved_tokens() * e * (row[2] or 0)
        return attention * (C_v > 0) + convolution * (C_c > 0) + 2 * N * self.embed_dims * m

    def _attended_pairs(self, is_global: bool) -> int:
        """Queries times keys of one head."""
        if is_global:
            return self.num_tokens**2
        grid = [min(self.window_size, side) for side in self.map_size]  # a window is cut to the map
        windows = math.prod(-(-side // cell) for side, cell in zip(self.map_size, grid))
        return windows * math.prod(grid)**2

    def _convolved_tokens(self) -> int:
        """Positions of the depthwise convolution."""
        if self.mode == 'image':
            return self.num_tokens
        return math.prod(-(-side // self.window_size) for side in self.map_size) * self.window_size**2

    def _block_parameters(self, row: Row) -> int:
        C_v, C_c, q, e, m = _widths(row, self.embed_dims)
        D, K = self.embed_dims, row[2] or 0
        attention = 3 * q * (C_v + 1) + C_v * (q + 1)
        convolution = 2 * e * (C_c + 1) + e * (K + 1) + 2 * e + C_c * (e + 1)
        return 4 * D + attention + convolution + m * (D + 1) + D * (m + 1)


def _widths(row: Row, D: int) -> Tuple[int, int, int, int, int]:
    """Channels of attention, of the convolution, inside the two, and of the MLP: C_v, C_c, q, e, m."""
    G, L, _, E, d_k, d_z = row
    C_v, C_c = D * G // GROUPS, D * L // GROUPS
    return C_v, C_c, int((d_k or 0) * C_v), int((E or 0) * C_c), int(d_z * D)
