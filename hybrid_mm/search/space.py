"""GLiT's search space as data, arXiv 2107.02960.

A candidate is a table with a row (G, L, K, E, d_k, d_z) for each block, as `hybrid_mm.GLiT` takes it: groups of channels with
attention and with convolution, kernel size and expansion of the convolution, widths of attention and of the MLP as ratios. What
a block does not have is None, so that two tables are equal if and only if their networks are.

A space is a list of alternatives for each block, each alternative the values of G, K, E, d_k and d_z, all combinations of which
are options. The paper's space is one alternative, that of the released code has one for each kind of block, see `OPTIONS`.

This file needs numpy alone.
"""
import hashlib
import itertools
import json
import math
from functools import cached_property
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple, Union

import numpy as np

GROUPS = 3
FIELDS = ('G', 'L', 'K', 'E', 'd_k', 'd_z')
_CHOICES = ('G', 'K', 'E', 'd_k', 'd_z')
_ROW = '(G, L, K, E, d_k, d_z)'

Row = Tuple[int, int, Optional[int], Optional[float], Optional[float], float]
Candidate = Tuple[Row, ...]

_D_K, _D_Z = [0.5, 1, 2], [2, 4, 6]
OPTIONS: Dict[str, List[dict]] = {
    # every combination: 4 distributions times 81 for each block
    'paper': [dict(G=[0, 1, 2, 3], K=[17, 31, 45], E=[1, 2, 4], d_k=_D_K, d_z=_D_Z)],
    # 9 for each distribution
    'release': [
        dict(G=[0], K=[17, 31, 45], E=[1, 2, 4], d_z=[4]),
        dict(G=[1, 2], K=[31], E=[1, 2, 4], d_k=[1], d_z=_D_Z),
        dict(G=[3], d_k=_D_K, d_z=_D_Z),
    ],
    # a transformer without convolutions: the paper's baseline 'NLP-NAS'
    'attention': [dict(G=[3], d_k=_D_K, d_z=_D_Z)],
}


class SearchSpace:
    """Options of each block, and what a search does with them: draw, mutate, cross.

    Args:
        options: a name of `OPTIONS`, or alternatives like theirs for all blocks, or a list of such lists, one a block. Values
            that no block of an alternative has may be left out.
        num_blocks: blocks of the network.
        details: values of K, E, d_k and d_z that all blocks have. What is left to choose is the distribution, G of each block.
        distribution: G of each block. What is left to choose are the details.

    Attributes:
        options: rows to choose from, for each block, one for each combination of values: a row comes more than once where
            values do not matter, such as K without a convolution.

    Raises:
        ValueError: an argument is outside of what is allowed, or a block is left without an option.

    Example:
        >>> SearchSpace('paper').num_candidates == (4 * 81)**12
        True
    """

    def __init__(self, options: Union[str, Sequence], num_blocks: int = 12, details: Optional[Dict[str, float]] = None,
                 distribution: Optional[Sequence[int]] = None) -> None:
        if not isinstance(num_blocks, int) or num_blocks < 1:
            raise ValueError(f'num_blocks={num_blocks} is not allowed; choose 1 or more')
        if isinstance(options, str):
            if options not in OPTIONS:
                raise ValueError(f'options={options!r} is unknown; choose from {", ".join(OPTIONS)} or give a list of '
                                 f'alternatives, dicts with {", ".join(_CHOICES)}')
            options = OPTIONS[options]
        if not isinstance(options, (list, tuple)) or not options:
            raise ValueError(f'options={options!r} is not allowed; give a list of alternatives, dicts with {", ".join(_CHOICES)}')
        by_block = options if isinstance(options[0], (list, tuple)) else [options] * num_blocks
        if len(by_block) != num_blocks:
            raise ValueError(f'options has {len(by_block)} lists; give one a block, num_blocks={num_blocks}')
        self.options: Tuple[Tuple[Row, ...], ...] = tuple(
            tuple(row for alternative in block for row in _combinations(alternative)) for block in by_block)
        if details is not None:
            self.options = self.with_details(details).options
        if distribution is not None:
            self.options = self.with_distribution(distribution).options

    @classmethod
    def from_cfg(cls, cfg: Dict[str, Any]) -> 'SearchSpace':
        """A space from a dict with the arguments of the constructor.

        Raises:
            ValueError: it has other keys, or one of its values is outside of what is allowed.
        """
        allowed = ('options', 'num_blocks', 'details', 'distribution')
        if not isinstance(cfg, dict) or 'options' not in cfg or not set(cfg) <= set(allowed):
            raise ValueError(f'space={cfg!r} is not allowed; give a dict with options and, if need be, {", ".join(allowed[1:])}')
        return cls(**cfg)

    # ---- size and parts ----

    @property
    def num_blocks(self) -> int:
        """Rows of a candidate."""
        return len(self.options)

    @property
    def num_candidates(self) -> int:
        """Size as the paper counts it: all combinations of values, those that do not matter for a block too."""
        return math.prod(map(len, self.options))

    @property
    def num_networks(self) -> int:
        """Size in networks that differ."""
        return math.prod(map(len, self.choices))

    @cached_property
    def choices(self) -> Tuple[Tuple[Row, ...], ...]:
        """Rows to choose from, for each block, each once."""
        return tuple(tuple(dict.fromkeys(block)) for block in self.options)

    def with_details(self, details: Dict[str, float]) -> 'SearchSpace':
        """The space of distributions: G of each block as here, the same K, E, d_k and d_z everywhere."""
        if sorted(details) != sorted(_CHOICES[1:]):
            raise ValueError(f'details has {", ".join(sorted(details)) or "nothing"}; give exactly {", ".join(_CHOICES[1:])}')
        values: List[Any] = [details[name] for name in _CHOICES[1:]]
        return self._of(tuple(make_row(G, *values) for G in sorted({row[0] for row in block})) for block in self.options)

    def with_distribution(self, distribution: Sequence[int]) -> 'SearchSpace':
        """The space of details: those options of each block that have this G."""
        if len(distribution) != len(self.options):
            raise ValueError(f'distribution={tuple(distribution)} has {len(distribution)} values; give G of each of the '
                             f'{len(self.options)} blocks')
        kept = []
        for number, (G, block) in enumerate(zip(distribution, self.options)):
            kept.append(tuple(row for row in block if row[0] == G))
            if not kept[-1]:
                raise ValueError(f'distribution={tuple(distribution)} has G={G} for block {number}; choose from '
                                 f'{sorted({row[0] for row in block})}')
        return self._of(kept)

    @staticmethod
    def _of(options: Iterable[Tuple[Row, ...]]) -> 'SearchSpace':
        space = SearchSpace.__new__(SearchSpace)
        space.options = tuple(options)
        return space

    # ---- candidates ----

    def check(self, candidate: Sequence[Sequence]) -> Candidate:
        """A candidate of this space in its one form.

        Raises:
            ValueError: it is none; the message names the block.
        """
        if len(candidate) != self.num_blocks:
            raise ValueError(f'the candidate has {len(candidate)} rows; give {_ROW} for each of the {self.num_blocks} blocks')
        rows = []
        for number, (row, choices) in enumerate(zip(candidate, self.choices)):
            if len(row) != len(FIELDS):
                raise ValueError(f'block {number} is {tuple(row)}; give {len(FIELDS)} values, {_ROW}')
            if row[0] + row[1] != GROUPS:
                raise ValueError(f'block {number} has G={row[0]} and L={row[1]}; choose two numbers with the sum {GROUPS}')
            canonical = make_row(row[0], *row[2:])
            if canonical not in choices:
                raise ValueError(f'block {number}, {_ROW} = {tuple(row)}, is not in the space; choose one of its '
                                 f'{len(choices)} options, such as {choices[0]}')
            rows.append(canonical)
        return tuple(rows)

    def first(self) -> Candidate:
        """The first option of each block."""
        return tuple(choices[0] for choices in self.choices)

    def draw(self, rng: np.random.Generator) -> Candidate:
        """A random candidate: for each block, every combination of values has the same chance."""
        return tuple(options[int(rng.integers(len(options)))] for options in self.options)

    def mutate(self, candidate: Candidate, rng: np.random.Generator, rate: float) -> Candidate:
        """The candidate with each block drawn anew at a chance of ``rate``."""
        again = rng.random(self.num_blocks) < rate
        return tuple(options[int(rng.integers(len(options)))] if is_again else row
                     for options, is_again, row in zip(self.options, again, candidate))

    def cross(self, one: Candidate, other: Candidate, rng: np.random.Generator) -> Candidate:
        """Each block from one of two candidates, with equal chances."""
        return tuple(rows[i] for rows, i in zip(zip(one, other), rng.integers(2, size=self.num_blocks)))

    def fingerprint(self) -> str:
        """A short name that tells this space from others."""
        return hashlib.sha256(json.dumps(self.options, separators=(',', ':')).encode()).hexdigest()[:16]

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, SearchSpace) and self.options == other.options

    def __hash__(self) -> int:
        return hash(self.options)

    def __repr__(self) -> str:
        return f'SearchSpace({self.num_blocks} blocks, {self.num_candidates:.3g} candidates, {self.num_networks:.3g} networks)'


def make_row(G: int, K: Optional[int], E: Optional[float], d_k: Optional[float], d_z: float) -> Row:
    """A row (G, L, K, E, d_k, d_z) with None for what a block of this G does not have. Whole numbers are of type int.

    Raises:
        ValueError: a value is outside of what is allowed.
    """
    if G not in range(GROUPS + 1):
        raise ValueError(f'G={G} is not allowed; choose from 0 to {GROUPS}')
    if G == GROUPS:
        K = E = None
    elif not isinstance(K, int) or K < 1 or K % 2 == 0:
        raise ValueError(f'K={K} is not allowed; choose an odd number, such as 31')
    if G == 0:
        d_k = None
    ratios: Dict[str, Any] = dict(E=E, d_k=d_k, d_z=d_z)
    for name, value in ratios.items():
        is_absent = value is None and (name == 'E' and G == GROUPS or name == 'd_k' and G == 0)
        if not is_absent and not (isinstance(value, (int, float)) and value > 0):
            raise ValueError(f'{name}={value} is not allowed; choose a number above 0')
        if isinstance(value, float) and value.is_integer():
            ratios[name] = int(value)
    return int(G), GROUPS - int(G), K, ratios['E'], ratios['d_k'], ratios['d_z']


def candidate_key(candidate: Candidate) -> str:
    """A candidate in one line: JSON of its rows. It is equal for two candidates if and only if their networks are."""
    return json.dumps(candidate, separators=(',', ':'))


def parse_key(key: str) -> Candidate:
    """The candidate of a key."""
    return tuple(tuple(row) for row in json.loads(key))


def distribution_of(candidate: Candidate) -> Tuple[int, ...]:
    """G of each block."""
    return tuple(row[0] for row in candidate)


def _combinations(alternative: dict) -> List[Row]:
    """Rows of all combinations of the values of an alternative, in the order of its values."""
    if not isinstance(alternative, dict) or not {'G', 'd_z'} <= set(alternative) <= set(_CHOICES):
        raise ValueError(f'the alternative {alternative!r} is not allowed; give a dict with lists of {", ".join(_CHOICES)}, '
                         'of which G and d_z are always needed')
    values = []
    for name in _CHOICES:
        given = alternative.get(name, [None])
        if not isinstance(given, (list, tuple)) or not given or len(set(given)) < len(given):
            raise ValueError(f'{name}={given!r} of an alternative is not allowed; give a list of one or more different values')
        values.append(given)
    return [make_row(*combination) for combination in itertools.product(*values)]
