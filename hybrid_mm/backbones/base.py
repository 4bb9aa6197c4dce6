"""What all backbones share: argument checks, freezing, checkpointing, layer depths and the form of the outputs."""
import itertools
from contextlib import contextmanager, nullcontext
from typing import Dict, Hashable, Iterator, List, Optional, Sequence, Tuple, Union

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class BaseBackbone(BaseModule):
    """A stem and a pyramid of stages at strides 4, 8, 16, 32, a subclass's to build.

    A subclass sets `arch_settings`, and in its constructor, after this one, builds ``stem``, ``downsamples`` (one before
    each stage) and ``stages`` (a list of blocks each), then calls `finish`.

    Args:
        arch: name of a row of ``arch_settings``, or a dict with the same keys.
        in_channels: channels of the image.
        out_indices: stages whose maps are returned, counted from 0; negative ones count from the end. Stages behind the last
            of them do not run, and their parameters get no gradient.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages. Frozen parts stay in evaluation mode.
        norm_eval: keep BatchNorm layers in evaluation mode during training.
        out_norm: put a norm on each returned map. Off in the released networks; it helps when training starts from scratch.
        norm_cfg: norm layer, as mmcv's ``build_norm_layer`` takes it: BN, SyncBN, GN.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0 at the first.
        with_cp: recompute the blocks in the backward pass to save memory.
        init_cfg: initialiser; by default truncated normal weights of std 0.02, as the releases. Use
            ``dict(type='hybrid_mm.Released', checkpoint=...)`` for the authors' weights.

    Raises:
        ValueError: an argument is outside of what is allowed; the message names both.
    """

    arch_settings: Dict[Hashable, dict] = {}
    arch_name = 'arch'  # what the subclass calls the name of a row

    def __init__(self,
                 arch: Union[Hashable, dict],
                 norm_cfg: dict,
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1,
                 norm_eval: bool = False,
                 out_norm: bool = False,
                 drop_path_rate: float = 0.,
                 with_cp: bool = False,
                 init_cfg: Union[dict, List[dict], None] = None) -> None:
        super().__init__(init_cfg or dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.))
        self.settings = self._parse_arch(arch)
        self.depths = tuple(self.settings['depths'])
        num_stages = len(self.depths)
        self.out_indices = _check_out_indices(out_indices, num_stages)
        if not -1 <= frozen_stages <= num_stages:
            raise ValueError(f'frozen_stages={frozen_stages} is not allowed; choose from -1 (none) to {num_stages} (all)')
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} is not allowed; choose from 0 to below 1')
        self.in_channels = in_channels
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.out_norm = out_norm
        self.norm_cfg = norm_cfg
        self.drop_path_rate = drop_path_rate
        self.with_cp = with_cp

    def norm_layer(self, channels: int) -> nn.Module:
        """A norm over ``channels`` as ``norm_cfg`` says."""
        return build_norm_layer(self.norm_cfg, channels)[1]

    def drop_path_rates(self) -> List[List[float]]:
        """Stochastic depth rate of each block, by stage."""
        step = self.drop_path_rate / max(sum(self.depths) - 1, 1)
        number = itertools.count()
        return [[step * next(number) for _ in range(depth)] for depth in self.depths]

    def finish(self, channels: Sequence[int]) -> None:
        """Add output norms and freeze what is to be frozen, once stem, downsamples and stages stand.

        Args:
            channels: channels of each stage.
        """
        self.out_channels: Tuple[int, ...] = tuple(channels[i] for i in self.out_indices)
        self.out_norms = nn.ModuleList(
            self.norm_layer(c) if self.out_norm and i in self.out_indices else nn.Identity()
            for i, c in enumerate(channels))
        used = max(self.out_indices) + 1
        unused = [*self.downsamples[used:], *self.stages[used:]]
        for module in [*self._frozen_modules(), *unused]:  # distributed training reports parameters without gradient
            module.requires_grad_(False)
        self.train()  # frozen parts go to evaluation mode

    def stage_stride(self, index: int) -> int:
        """Stride of the maps of a stage; a subclass with a stage that does not halve its maps overrides this."""
        return 4 * 2**index

    def enter(self, x: Tensor) -> Tensor:
        """The image batch (B, in_channels, H, W) as the stem takes it: channels_last, the fast path on CPU and GPU.

        Raises:
            ValueError: the image is smaller than the stride of the last stage that runs.
        """
        stride = self.stage_stride(max(self.out_indices))
        if x.shape[2] < stride or x.shape[3] < stride:
            raise ValueError(f'the image has {x.shape[2]}x{x.shape[3]} pixels, less than the stride of {stride} of '
                             f'{type(self).__name__}; give at least {stride}x{stride} pixels')
        return x.contiguous(memory_format=torch.channels_last)

    def run(self, blocks: nn.ModuleList, x: Tensor) -> Tensor:
        """The blocks of a stage one after the other, recomputed in the backward pass if ``with_cp``."""
        for block in blocks:
            if self.with_cp and self.training and torch.is_grad_enabled():
                contexts = nullcontext(), _fixed_running_statistics(block)
                x = checkpoint(block, x, use_reentrant=False, context_fn=lambda contexts=contexts: contexts)
            else:
                x = block(x)
        return x

    def leave(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """The maps of the stages that ran, as the neck takes them: one for each out index, normed if asked, contiguous.

        mmcv's RoIAlign reads a channels_last map as if it were contiguous, without an error.
        """
        return tuple(self.out_norms[i](maps[i]).contiguous() for i in self.out_indices)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Image batch to feature maps.

        Args:
            x: (B, in_channels, H, W), at least 32 x 32 pixels; any size, odd ones too.

        Returns:
            One contiguous map (B, C_i, ceil(H/s_i), ceil(W/s_i)) for each out index, s_i = 4, 8, 16, 32.
        """
        x = self.stem(self.enter(x))
        maps = []
        for downsample, blocks in zip(self.downsamples[:max(self.out_indices) + 1], self.stages):
            x = self.run(blocks, downsample(x))
            maps.append(x)
        return self.leave(maps)

    def train(self, mode: bool = True) -> 'BaseBackbone':
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = '') -> Tuple[int, int]:
        """Depth of a parameter, for layer-wise learning-rate decay.

        The stem is 0, block k of the network is k + 1; a downsampling counts with the block behind it, an output norm with
        the block in front of it, and what is not of this backbone comes last.

        Args:
            param_name: full name of the parameter.
            prefix: what stands before the names of this backbone, such as ``'backbone.'``.

        Returns:
            The depth, and the number of depths.
        """
        num_layers = sum(self.depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        part, *rest = param_name[len(prefix):].split('.')
        if part == 'stem':
            return 0, num_layers
        if part not in ('downsamples', 'stages', 'out_norms'):
            return num_layers - 1, num_layers
        stage = int(rest[0])
        before = sum(self.depths[:stage])
        block = {'downsamples': 0, 'out_norms': self.depths[stage] - 1}.get(part)
        return before + (int(rest[1]) if block is None else block) + 1, num_layers

    def _frozen_modules(self) -> List[nn.Module]:
        if self.frozen_stages < 0:
            return []
        return [self.stem, *self.downsamples[:self.frozen_stages], *self.stages[:self.frozen_stages]]

    def _parse_arch(self, arch: Union[Hashable, dict]) -> dict:
        rows = self.arch_settings
        keys = sorted(next(iter(rows.values())))
        if not isinstance(arch, dict):
            if arch not in rows:
                raise ValueError(f'{self.arch_name}={arch!r} is unknown; choose from {", ".join(map(str, rows))} or pass a '
                                 f'dict with {", ".join(keys)}')
            return rows[arch]
        if sorted(arch) != keys:
            raise ValueError(f'{self.arch_name} has the keys {", ".join(sorted(arch))}; it needs exactly {", ".join(keys)}')
        lengths = {key: len(value) for key, value in arch.items() if isinstance(value, (list, tuple))}
        if len(set(lengths.values())) > 1:
            raise ValueError(f'{self.arch_name} has lists of different lengths, {lengths}; give one entry a stage in each')
        return arch


def _check_out_indices(out_indices: Sequence[int], num_stages: int) -> Tuple[int, ...]:
    if isinstance(out_indices, int):
        out_indices = (out_indices, )
    bad = [i for i in out_indices if not -num_stages <= i < num_stages]
    if bad or not out_indices:
        raise ValueError(f'out_indices={tuple(out_indices)} is not allowed; choose one or more from {-num_stages} to '
                         f'{num_stages - 1}')
    return tuple(i % num_stages for i in out_indices)


def parse_insert_locations(insert_locations: Sequence[int], depths: Sequence[int]) -> Tuple[int, ...]:
    """Index of the first ParC block of each stage or row; where there is none, the number of its blocks.

    Args:
        insert_locations: one index a stage, or () for none at all. An index behind the last block says none, too.
        depths: blocks of each stage.

    Raises:
        ValueError: the number of indices is another, or one is negative.
    """
    if isinstance(insert_locations, (tuple, list)) and not insert_locations:
        return tuple(depths)
    if not isinstance(insert_locations, (tuple, list)) or len(insert_locations) != len(depths) or min(insert_locations) < 0:
        raise ValueError(f'insert_locations={insert_locations!r} is not allowed; give {len(depths)} indices, 0 or more, '
                         'of the first ParC block of each stage, or () for none')
    return tuple(min(location, depth) for location, depth in zip(insert_locations, depths))


@contextmanager
def _fixed_running_statistics(block: nn.Module) -> Iterator[None]:
    """BatchNorm layers use batch statistics and leave the running ones alone: a recomputed block must not count twice."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta):
            norm.momentum = momentum
            norm.num_batches_tracked -= 1
