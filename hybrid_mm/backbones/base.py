"""What all backbones share: argument checks, freezing, checkpointing, layer depths and the form of the outputs."""
import functools
import itertools
import re
from contextlib import nullcontext
from numbers import Integral
from typing import Any, Callable, Dict, Hashable, Iterable, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from hybrid_mm.errors import SetupError
from hybrid_mm.failures import explain
from hybrid_mm.layers.tracing import is_traced, needs_plain
from hybrid_mm.names import nearest, parameters

from .norms import build_norm

InitCfg = Union[dict, List[dict]]

# memory_format='auto': device -> dtypes for which maps run in channels_last; for all others, and on all other devices, they are
# contiguous. Measured on a CPU in float32, 2 x 224x224, time of contiguous maps over that of channels_last ones, inference and
# training: TransCNN 1.28, 1.07; HAT-Net 1.14, 1.13; ParC-MobileNetV2 1.14, 1.23; ParC-Net 1.07, 1.12; SeTformer 1.01, 1.01;
# ParC-ConvNeXt 0.98, 1.01; ParC-ResNet50 0.96, 0.99; GLiT 0.93, 0.94. Other dtypes on CPUs and all of CUDA are guesses: on GPUs
# others report 0.48 to 1.9 times the speed, and losses in float32 and in depthwise convolutions.
_CHANNELS_LAST = {
    'cpu': (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    'meta': (torch.float32, torch.float64, torch.bfloat16, torch.float16),  # stands for a CPU, to count operations
    'cuda': (torch.bfloat16, torch.float16),
}
_MEMORY_FORMATS = dict(channels_last=torch.channels_last, contiguous=torch.contiguous_format)


class BaseBackbone(BaseModule):
    """A stem and a pyramid of stages at strides 4, 8, 16, 32, a subclass's to build.

    A subclass sets `arch_settings`, and its constructor, after this one, builds ``stem``, ``downsamples`` (one before each
    stage) and ``stages`` (a list of blocks each), the latter two with `build_stages` or by itself. Where ``settings`` has no
    ``channels``, it also sets ``stage_channels``. Behind the constructor this class adds output norms and freezes what is to
    be frozen; the subclass calls nothing for it.

    Args:
        arch: name of a row of ``arch_settings``, or a dict with the same keys.
        in_channels: channels of the image.
        out_indices: stages whose maps are returned, counted from 0; negative ones count from the end. Stages behind the last
            of them do not run, and their parameters get no gradient.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages. Frozen parts stay in evaluation mode.
        norm_eval: keep BatchNorm layers in evaluation mode during training.
        out_norm: put a norm on each returned map. Off in the released networks; it helps when training starts from scratch.
        norm_cfg: norm layer, see `build_norm`: BN, SyncBN, GN.
        drop_path_rate: stochastic depth rate of the last block, rising linearly from 0 at the first.
        with_cp: recompute the blocks in the backward pass to save memory.
        memory_format: of the image in front of the stem, and so of the maps inside, as far as layers do not set their own
            (LayerNorm gives channels_last): ``'channels_last'``, ``'contiguous'``, or ``'auto'``, which chooses by device and
            dtype: channels_last on CPUs, by measurements in float32, and on CUDA in half precision, a guess; else contiguous.
            The outputs are the same, and contiguous, in each.
        init_cfg: initialiser; None for the family's own start, see ``default_init_cfg``. Use
            ``dict(type='hybrid_mm.Released', checkpoint=...)`` for the authors' weights. mmengine's ``Pretrained``, which takes
            whatever of a file fits, stands for it too: a file that does not fit is an error.

    Attributes:
        out_channels: channels of the returned maps.

    Raises:
        ValueError: an argument is outside of what is allowed; the message names both.
        TypeError: an argument is unknown, where the message names the nearest; the constructor of a subclass leaves out a part.
    """

    arch_settings: Dict[Hashable, dict] = {}
    arch_name = 'arch'  # what the subclass calls the name of a row
    default_init_cfg: InitCfg = dict(type='TruncNormal', layer=['Conv2d', 'Linear'], std=0.02, bias=0.)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if '__init__' in vars(cls):
            cls.__init__ = _completing(cls.__init__)  # type: ignore[method-assign]

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
                 memory_format: str = 'auto',
                 init_cfg: Optional[InitCfg] = None) -> None:
        super().__init__(_load_strictly(init_cfg or self.default_init_cfg))
        self.settings = self._parse_arch(arch)
        self.depths = tuple(self.settings['depths'])
        if 'channels' in self.settings:
            self.stage_channels: Sequence[int] = self.settings['channels']
        num_stages = len(self.depths)
        self.out_indices = _check_out_indices(out_indices, num_stages)
        if not is_whole(frozen_stages) or not -1 <= frozen_stages <= num_stages:
            raise ValueError(f'frozen_stages={frozen_stages} is not allowed; choose from -1 (none) to {num_stages} (all)')
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} is not allowed; choose from 0 to below 1')
        if memory_format not in ('auto', *_MEMORY_FORMATS):
            raise ValueError(f'memory_format={memory_format!r} is unknown; choose from auto, {", ".join(_MEMORY_FORMATS)}')
        if not is_whole(in_channels) or in_channels < 1:
            raise ValueError(f'in_channels={in_channels!r} is not allowed; give the channels of the pictures, 1 or more')
        self.in_channels = in_channels
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.out_norm = out_norm
        self.norm_cfg = norm_cfg
        self.drop_path_rate = drop_path_rate
        self.with_cp = with_cp
        self.memory_format = memory_format

    def norm_layer(self, channels: int) -> nn.Module:
        """A norm over ``channels`` as ``norm_cfg`` says."""
        return build_norm(self.norm_cfg, channels)

    def drop_path_rates(self) -> List[List[float]]:
        """Stochastic depth rate of each block, by stage."""
        step = self.drop_path_rate / max(sum(self.depths) - 1, 1)
        number = itertools.count()
        return [[step * next(number) for _ in range(depth)] for depth in self.depths]

    def build_stages(self,
                     block: Callable[[int, int, float], nn.Module],
                     downsample: Optional[Callable[[int], nn.Module]] = None) -> None:
        """Build ``downsamples`` and ``stages``, in the order in which data flows.

        Args:
            block: makes block j of stage i from (i, j, stochastic depth rate).
            downsample: makes from i, 1 or more, what stands before stage i; None if nothing does.
        """
        self.downsamples, self.stages = nn.ModuleList(), nn.ModuleList()
        for i, rates in enumerate(self.drop_path_rates()):
            self.downsamples.append(downsample(i) if downsample and i else nn.Identity())
            self.stages.append(nn.ModuleList(block(i, j, rate) for j, rate in enumerate(rates)))

    def finish(self, channels: Sequence[int]) -> None:
        """What subclasses written for version 0.1 call at the end of their constructor; the channels of each stage."""
        self.stage_channels = channels
        self._complete()

    def stage_stride(self, index: int) -> int:
        """Stride of the maps of a stage; a subclass with a stage that does not halve its maps overrides this."""
        return 4 * 2**index

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Image batch to feature maps.

        Args:
            x: (B, in_channels, H, W), at least 32 x 32 pixels; any size, odd ones too.

        Returns:
            One contiguous map (B, C_i, ceil(H/s_i), ceil(W/s_i)) for each out index, s_i = 4, 8, 16, 32. A picture of zeros
            sends no gradient back through them, see `_stop_gradient_of_empty`.

        Raises:
            SetupError: a norm layer, which the message names, has one value a channel in training.
        """
        if is_traced():
            return self._maps(x)
        try:
            return _stop_gradient_of_empty(x, self._maps(x))
        except ValueError as error:
            sentence = explain(error)
            if sentence is None:
                raise
            raise SetupError(sentence) from None

    def _maps(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.stem(self.prepare_image(x))
        maps = []
        for downsample, blocks in zip(self.downsamples[:max(self.out_indices) + 1], self.stages):
            x = self.run_blocks(blocks, downsample(x))
            maps.append(x)
        return self.collect_outputs(maps)

    def prepare_image(self, x: Tensor) -> Tensor:
        """The image batch (B, in_channels, H, W) as the stem takes it, in the memory format of the maps.

        Raises:
            SetupError: the image is smaller than the stride of the last stage that runs.
        """
        stride = self.stage_stride(max(self.out_indices))
        if x.shape[2] < stride or x.shape[3] < stride:
            raise SetupError(f'the image has {x.shape[2]}x{x.shape[3]} pixels, less than the stride of {stride} of '
                             f'{type(self).__name__}; give at least {stride}x{stride} pixels')
        return x.contiguous(memory_format=_MEMORY_FORMATS[
            _choose_format(x) if self.memory_format == 'auto' else self.memory_format])

    def run_blocks(self, blocks: Iterable[nn.Module], x: Tensor) -> Tensor:
        """The blocks of a stage one after the other, recomputed in the backward pass if ``with_cp``."""
        recomputes = self.with_cp and self.training and torch.is_grad_enabled()
        for block in blocks:
            x = _recompute_in_backward(block, x) if recomputes else block(x)
        return x

    def collect_outputs(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """The maps of the stages that ran, as the neck takes them: one for each out index, normed if asked, contiguous.

        mmcv's RoIAlign reads a channels_last map as if it were contiguous, without an error.
        """
        return tuple(self.out_norms[i](maps[i]).contiguous() for i in self.out_indices)

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

    def _complete(self) -> None:
        """Add output norms and freeze what is to be frozen; runs behind each constructor."""
        self.out_channels: Tuple[int, ...] = tuple(self.stage_channels[i] for i in self.out_indices)
        if not hasattr(self, 'out_norms'):
            self.out_norms = nn.ModuleList(
                self.norm_layer(c) if self.out_norm and i in self.out_indices else nn.Identity()
                for i, c in enumerate(self.stage_channels))
        used = max(self.out_indices) + 1
        unused = [*self.downsamples[used:], *self.stages[used:]]
        for module in [*self._frozen_modules(), *unused]:  # distributed training reports parameters without gradient
            module.requires_grad_(False)
        self.train(self.training)  # frozen parts go to evaluation mode

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


def is_whole(number: Any) -> bool:
    """Whether this is a whole number, which True and 2.0 are not."""
    return isinstance(number, Integral) and not isinstance(number, bool)


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
    if not isinstance(insert_locations, (tuple, list)) or len(insert_locations) != len(depths) or not all(
            is_whole(location) and location >= 0 for location in insert_locations):
        raise ValueError(f'insert_locations={insert_locations!r} is not allowed; give {len(depths)} indices, 0 or more, '
                         'of the first ParC block of each stage, or () for none')
    return tuple(min(location, depth) for location, depth in zip(insert_locations, depths))


def _check_out_indices(out_indices: Sequence[int], num_stages: int) -> Tuple[int, ...]:
    out_indices = tuple(out_indices) if isinstance(out_indices, Iterable) else (out_indices, )
    if not out_indices or not all(is_whole(i) and -num_stages <= i < num_stages for i in out_indices):
        raise ValueError(f'out_indices={out_indices} is not allowed; choose one or more from {-num_stages} to {num_stages - 1}')
    return tuple(i % num_stages for i in out_indices)


def _completing(constructor: Callable[..., None]) -> Callable[..., None]:
    """A constructor of a subclass, behind which the backbone is complete; one that calls another's builds on a complete one."""

    @functools.wraps(constructor)
    def construct(self: BaseBackbone, *args: Any, **kwargs: Any) -> None:
        try:
            constructor(self, *args, **kwargs)
        except TypeError as error:  # of the constructor that the argument came to in the end
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            names, is_open = parameters(type(self))  # type: ignore[arg-type]
            if unknown is None or unknown[1] not in kwargs or unknown[1] in names or is_open:
                raise
            near = nearest(unknown[1], names)
            raise TypeError(f'{unknown[1]} is unknown to {type(self).__name__}; ' + (
                f'the nearest is {near}' if near else f'choose from {", ".join(sorted(names))}')) from None
        missing = [name for name in ('stem', 'downsamples', 'stages', 'stage_channels') if not hasattr(self, name)]
        if not missing:
            self._complete()
        elif type(self).__init__ is construct:
            raise TypeError(f'the constructor of {type(self).__name__} leaves out {", ".join(missing)}; see BaseBackbone')

    return construct


def _load_strictly(init_cfg: InitCfg) -> InitCfg:
    """With mmengine's ``Pretrained`` replaced, and last, as mmengine runs it."""

    def is_file(cfg: dict) -> bool:
        return cfg.get('type') in ('Pretrained', 'mmengine.Pretrained', PretrainedInit)

    def strict(cfg: dict) -> dict:
        given = {key: cfg[key] for key in ('checkpoint', 'prefix') if cfg.get(key) is not None}
        return dict(type='hybrid_mm.Released', **given) if is_file(cfg) else cfg

    return strict(init_cfg) if isinstance(init_cfg, dict) else [strict(cfg) for cfg in sorted(init_cfg, key=is_file)]


def _choose_format(x: Tensor) -> str:
    """A name of `_MEMORY_FORMATS` for an image, by its device and the dtype in which convolutions run."""
    dtype = torch.get_autocast_gpu_dtype() if x.is_cuda and torch.is_autocast_enabled() else x.dtype
    return 'channels_last' if dtype in _CHANNELS_LAST.get(x.device.type, ()) else 'contiguous'


def _stop_gradient_of_empty(image: Tensor, outputs: Tuple[Tensor, ...]) -> Tuple[Tensor, ...]:
    """Let no gradient into the backbone from those pictures of a batch that are zero all over.

    Without biases, as all these networks start, such a picture is zero in each layer, and each norm divides by the root of its
    eps: the gradient grows by 300 to 1000 from norm to norm, beyond what float16 holds, and in ParC-Net beyond float32, though
    there is nothing to learn from. The outputs are as they are.
    """
    if any(output.requires_grad for output in outputs) and not needs_plain():
        is_picture = image.detach().flatten(1).any(1)
        for output in outputs:
            if output.requires_grad:
                seen = is_picture.view(-1, *[1] * (output.ndim - 1))
                output.register_hook(lambda grad, seen=seen: torch.where(seen, grad, 0.))
    return outputs


def _recompute_in_backward(block: nn.Module, x: Tensor) -> Tensor:
    if is_traced():  # a compiler recomputes without writing statistics again, and does not see through contexts
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _FixedRunningStatistics(block)))


class _FixedRunningStatistics:
    """BatchNorm layers use batch statistics and leave the running ones alone: a recomputed block must not count twice.

    A context that is entered as often as there are backward passes over one graph.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __enter__(self) -> None:
        norms = (m for m in self.block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats and m.training)
        self.momenta = [(norm, norm.momentum) for norm in norms]
        for norm, _ in self.momenta:
            norm.momentum = 0.

    def __exit__(self, *error: Any) -> None:
        for norm, momentum in self.momenta:
            norm.momentum = momentum
            norm.num_batches_tracked -= 1
