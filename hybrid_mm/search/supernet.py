"""GLiT's supernet: one network with the weights of all candidates of a search space (arXiv 2107.02960)."""
import copy
from typing import Callable, Dict, Hashable, Iterable, Iterator, Sequence, Set, Tuple, Union, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from hybrid_mm.backbones import GLiT
from hybrid_mm.layers import GlobalLocalBlock
from hybrid_mm.registry import MODELS

from .space import GROUPS, Candidate, Row, SearchSpace


class SharedBlock(nn.Module):
    """A global-local block whose narrower forms use the first part of its weights.

    The forms have the same G and L, and differ in K, E, d_k and d_z. The block itself has the largest of each. A narrower form
    takes the first channels inside the convolution, of each head of queries, keys and values, and inside the MLP, and the
    middle taps of the kernel. BatchNorm's statistics are shared in the same way, so they fit no form until they are estimated
    anew.

    Args:
        make: builds a `GlobalLocalBlock` from a row (G, L, K, E, d_k, d_z). It is copied and pickled with the block.
        rows: the forms.
        num_heads: of the network, as of `GlobalLocal`.

    Shape:
        as `GlobalLocalBlock`.
    """

    def __init__(self, make: Callable[[Row], GlobalLocalBlock], rows: Sequence[Row], num_heads: int) -> None:
        super().__init__()
        largest = cast(Row, tuple(None if values[0] is None else max(values) for values in zip(*rows)))
        self.block = make(largest)
        self.row = largest
        heads = num_heads * largest[0] // GROUPS
        # axes whose channels are several groups, of each of which a narrower form takes the first part
        self._groups = {('qkv', 0): 3 * heads, ('proj', 1): heads, ('expand', 0): 2}
        self._make = make
        self._forms: Dict[Row, GlobalLocalBlock] = {}  # in a dict, so that they are no modules of this one

    def forward(self, x: Tensor) -> Tensor:
        form = self._form(self.row)
        for name, widest in self.block.named_modules():
            own = form.get_submodule(name)
            if isinstance(widest, _BatchNorm) and type(own) is not type(widest):  # to SyncBatchNorm, or back, by a Runner
                own = _resized(widest, own)
                parent, _, attribute = name.rpartition('.')
                setattr(form.get_submodule(parent), attribute, own)
            own.training = widest.training
            if hasattr(widest, 'momentum'):
                own.momentum = widest.momentum
        return functional_call(form, self.weights(self.row), (x, ), strict=True)

    def weights(self, row: Row) -> Dict[str, Tensor]:
        """Parameters and buffers of a form, parts of those of the block."""
        form = self._form(row)
        shapes = {name: tensor.shape for name, tensor in (*form.named_parameters(), *form.named_buffers())}
        tensors = (*self.block.named_parameters(), *self.block.named_buffers())
        return {name: self._part(name, tensor, shapes[name]) for name, tensor in tensors}

    def _form(self, row: Row) -> GlobalLocalBlock:
        """The arithmetic of a form, without weights, which come with each call."""
        if row not in self._forms:
            with torch.device('meta'):
                self._forms[row] = self._make(row)
        return self._forms[row]

    def _part(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
        layer = name.split('.')[-2]
        for axis, (width, part) in enumerate(zip(tensor.shape, shape)):
            if part == width:
                continue
            groups = self._groups.get((layer, axis), 1)
            if layer == 'depthwise' and axis == 2:
                tensor = tensor.narrow(axis, (width - part) // 2, part)
            elif groups == 1:  # a view: BatchNorm writes its statistics through it
                tensor = tensor.narrow(axis, 0, part)
            else:
                tensor = tensor.unflatten(axis, (groups, -1)).narrow(axis + 1, 0, part // groups).flatten(axis, axis + 1)
        return tensor


def _resized(norm: _BatchNorm, like: _BatchNorm) -> _BatchNorm:
    """A norm of the kind and with the settings of one, with the channels and the tensors of another."""
    resized = copy.copy(norm)
    resized._parameters, resized._buffers = like._parameters, like._buffers  # the copy shares its own with `norm`
    resized.num_features = like.num_features
    return resized


class BlockChoices(nn.ModuleDict):
    """What one block of the network can be: a `SharedBlock` for each G, by its number as a string.

    Attributes:
        active: the one that runs.
    """

    def __init__(self, blocks: Dict[str, SharedBlock]) -> None:
        super().__init__(blocks)
        self._groups = next(iter(blocks))

    @property
    def active(self) -> SharedBlock:
        return self[self._groups]

    def select(self, row: Row) -> None:
        """Let the form of this row run."""
        self._groups = str(row[0])
        self.active.row = row


@MODELS.register_module()
class GLiTSupernet(GLiT):
    """All candidates of a search space in one backbone, for single-path-one-shot training.

    Each block has a `SharedBlock`, norms and MLP included, for each G that it can have; the narrower forms of one G share its
    weights. The authors' code suggests a complete block for each option, of which there are 81 with the paper's details;
    sharing keeps the memory of one, and each weight is trained more often.

    A training pass runs one random candidate, drawn from ``seed`` and the number of the pass: the same in all processes, and
    the same after an interruption. An evaluation pass runs the candidate of `set_path`, at first the first option of each
    block. Most parameters get no gradient in a pass: with several processes, a config needs ``find_unused_parameters=True``.

    Args:
        arch: a dict with ``embed_dims``, ``num_heads`` and ``space``, a dict with the arguments of
            `hybrid_mm.search.SearchSpace`. The config of a candidate is this one with type ``hybrid_mm.GLiT`` and, in the
            place of ``space``, ``blocks``.
        seed: of the candidates in training.
        kwargs: see `hybrid_mm.GLiT`.

    Attributes:
        space: the search space.
        path: the candidate of evaluation passes.

    Raises:
        ValueError: an argument is outside of what is allowed.
    """

    def __init__(self, arch: dict, *args, seed: int = 0, **kwargs) -> None:
        super().__init__(arch, *args, **kwargs)
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f'seed={seed} is not allowed; choose a whole number, 0 or more')
        self.seed = seed
        # a buffer, so that a resumed training draws on where it was
        self.register_buffer('num_passes', torch.zeros((), dtype=torch.long))
        self.set_path(self.space.first())

    def set_path(self, candidate: Sequence[Sequence]) -> None:
        """Choose the candidate of evaluation passes.

        Raises:
            ValueError: it is not in the space.
        """
        self.path = self.space.check(candidate)

    def sample_path(self, number: int) -> Candidate:
        """The candidate of a training pass, counted from 0."""
        return self.space.draw(np.random.default_rng((self.seed, number)))

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        path = self.path
        if self.training:
            path = self.sample_path(int(self.num_passes))
            self.num_passes += 1
        for choices, row in zip(self._all_choices(), path):
            choices.select(row)
        return super().forward(x)

    def run_blocks(self, blocks: Iterable[BlockChoices], x: Tensor) -> Tensor:
        return super().run_blocks([choices.active for choices in blocks], x)

    def weights_of(self, candidate: Sequence[Sequence]) -> Dict[str, Tensor]:
        """The weights of a candidate: a state dict of `hybrid_mm.GLiT` with its blocks, copied.

        Raises:
            ValueError: it is not in the space.
        """
        rows = iter(self.space.check(candidate))
        state_dict = {name: tensor for name, tensor in self.state_dict().items()
                      if not name.startswith('stages.') and name != 'num_passes'}
        for i, stage in enumerate(self.stages):
            for j, choices in enumerate(stage):
                row = next(rows)
                weights = choices[str(row[0])].weights(row)
                state_dict.update({f'stages.{i}.{j}.{name}': tensor for name, tensor in weights.items()})
        return {name: tensor.detach().clone() for name, tensor in state_dict.items()}

    def _all_choices(self) -> Iterator[BlockChoices]:
        return (choices for stage in self.stages for choices in stage)

    def _block(self, stage: int, place: int, drop_path_rate: float) -> BlockChoices:
        number = sum(self.depths[:stage]) + place
        make, rows = self._block_maker(number, drop_path_rate), self.space.choices[number]
        with torch.device('meta'):  # a width that is no whole number is found now
            for row in [row for row in rows if row not in self._checked]:
                make(row)
        self._checked.update(rows)
        return BlockChoices({
            str(G): SharedBlock(make, [row for row in rows if row[0] == G], self.settings['num_heads'])
            for G in sorted({row[0] for row in rows})
        })

    def _parse_arch(self, arch: Union[Hashable, dict]) -> dict:
        if not isinstance(arch, dict) or sorted(arch) != ['embed_dims', 'num_heads', 'space']:
            raise ValueError(f'arch={arch!r} of a supernet is not allowed; give a dict with embed_dims, num_heads, space')
        self.space = SearchSpace.from_cfg(arch['space'])
        self._checked: Set[Row] = set()
        return super()._parse_arch({
            'embed_dims': arch['embed_dims'], 'num_heads': arch['num_heads'], 'blocks': list(self.space.first())})
