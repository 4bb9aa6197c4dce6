"""Speed and memory of the networks of configs, measured in turn in one run. No data and no weights are needed.

What is timed, on images of noise that lie on the device, without data loading and the data preprocessor:

=========== =================================================================================================================
inference   the forward pass that `complexity` counts: a detector with 1000 boxes an image in its box heads and 100 in its mask
            heads, whatever its RPN finds, and without non-maximum suppression; a segmentor without its auxiliary head
training    forward pass, the losses of the config on made-up annotations, and backward pass; no step of an optimizer.
            Detectors have 8 objects an image. MMDetection's assignment and sampling of boxes run, as in a training
backbone    the backbone alone; in training a backward pass from the mean square of its maps
=========== =================================================================================================================

All networks are in memory together and run once a round, one after the other, so that a busy minute of the machine hits all.
"""
import copy
import math
import statistics
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from hybrid_mm.backbones.base import BaseBackbone
from hybrid_mm.errors import SetupError
from hybrid_mm.networks import build_model

from .complexity import NUM_BOXES, aligned, data_samples, image_shape, run_network
from .measurement import Step, in_turn, peak_bytes, run, seconds

_PERCENTILES = (50, 90, 99)
_ROUNDS = 5, 1000  # fewest and most, where a time is given
_NUM_OBJECTS = 8  # of an image; about what COCO has
_NAMES_IN_ERRORS = dict(bfloat16='BFloat16', float16='Half')
_SMALLEST = 32  # the largest box is the image, the smallest this part of it


class Settings(NamedTuple):
    """How networks are measured.

    Attributes:
        device: such as ``'cpu'`` or ``'cuda:0'``.
        batch_size: images at a time.
        shape: height and width of the images; None for those at which papers give costs, see `complexity.default_shape`.
        train: the backward pass, too.
        backbone: the backbone alone.
        dtype: of automatic mixed precision, None for float32.
        compile: the backbone through ``torch.compile``.
        memory_format: of the backbone, ``'auto'``, ``'channels_last'`` or ``'contiguous'``; None for what the config says. Our
            backbones take it as their argument; others get weights and images in channels_last, or stay as they are.
        rounds: runs of each network, or None.
        seconds: time for each network, where the rounds are None: at least 5 rounds, at most 1000.
    """
    device: str = 'cpu'
    batch_size: int = 1
    shape: Optional[Sequence[int]] = None
    train: bool = False
    backbone: bool = False
    dtype: Optional[torch.dtype] = None
    compile: bool = False
    memory_format: Optional[str] = None
    rounds: Optional[int] = None
    seconds: float = 10.


class Speed(NamedTuple):
    """What was measured of one network."""
    name: str  # of the config
    shape: Tuple[int, int]  # height and width of the images
    batch_size: int  # images at a time
    parameters: int  # number of parameters
    weight_bytes: int  # memory of parameters and buffers
    step_bytes: int  # most memory that a step held beyond these and the images
    seconds: List[float]  # of the step in each round
    ratio: float  # images a second as a multiple of the first network's, the median over the rounds

    @property
    def images_per_second(self) -> float:
        """At the median latency."""
        return self.batch_size / statistics.median(self.seconds)

    def latency(self) -> Dict[str, float]:
        """Percentiles of the seconds of a step, of one batch."""
        return {f'p{percent}': float(np.percentile(self.seconds, percent)) for percent in _PERCENTILES}

    def as_dict(self) -> Dict[str, Any]:
        """For JSON; times in seconds, memory in bytes."""
        memory = dict(weights=self.weight_bytes, step=self.step_bytes, peak=self.weight_bytes + self.step_bytes)
        return dict(config=self.name, shape=list(self.shape), parameters=self.parameters,
                    images_per_second=self.images_per_second, ratio=self.ratio, latency=self.latency(), memory=memory,
                    seconds=self.seconds)


def table(speeds: Sequence[Speed]) -> str:
    """A line for each network."""
    lines = [['', 'pixels', 'params (M)', 'images/s', 'ratio', *(f'p{percent} (ms)' for percent in _PERCENTILES), 'peak (MiB)']]
    for speed in speeds:
        height, width = speed.shape
        latency = (f'{1e3 * value:.2f}' for value in speed.latency().values())
        lines.append([speed.name, f'{height}x{width}', f'{speed.parameters / 1e6:.3f}', f'{speed.images_per_second:.2f}',
                      f'{speed.ratio:.3f}', *latency, f'{(speed.weight_bytes + speed.step_bytes) / 2**20:.1f}'])
    head, *rows = aligned(lines)
    return '\n'.join([head, '-' * len(head), *rows])


def measure(cfgs: Dict[str, Any], settings: Settings,
            progress: Optional[Callable[[str, int], ContextManager]] = None) -> List[Speed]:
    """Build the networks, run each once, then measure them in turn.

    Args:
        cfgs: name -> config of a detector, segmentor or classifier, with ``default_scope`` and ``model``.
        settings: how.
        progress: shows how far it is, such as `hybrid_mm.progress.Progress`.

    Raises:
        SetupError: a network cannot run like this; nothing was measured then.
    """
    from mmengine.registry import DefaultScope
    progress = progress or (lambda name, total: nullcontext(SimpleNamespace(advance=lambda: None)))
    shapes = {name: (settings.batch_size, *image_shape(cfg, settings.shape)[1:]) for name, cfg in cfgs.items()}
    if settings.device == 'cpu':
        torch.set_flush_denormal(True)  # where there is a GPU `compat.flush_denormals` leaves it off
    scope = next(iter(cfgs.values())).default_scope
    current_gpu = torch.cuda.device(settings.device) if settings.device.startswith('cuda') else nullcontext()
    steps, sizes, one_round = {}, {}, 0.
    with current_gpu, DefaultScope.overwrite_default_scope(scope):
        with progress('networks', len(cfgs)) as done:
            for name, cfg in cfgs.items():
                with explained(name, settings):
                    model = _build(cfg, settings)
                    images = torch.randn(shapes[name], generator=torch.Generator().manual_seed(0)).to(settings.device)
                    steps[name] = step = step_of(model, images, cfg.default_scope, settings)
                    step()  # compiles, and what cannot run says so
                    weights = [*model.parameters(), *model.buffers()]
                    sizes[name] = (sum(p.numel() for p in model.parameters()), sum(w.nbytes for w in weights),
                                   peak_bytes(step, settings.device))
                    one_round += seconds(step) if settings.rounds is None else 0.
                done.advance()
        rounds = settings.rounds
        if rounds is None:
            fewest, most = _ROUNDS
            rounds = math.ceil(min(most, max(fewest, settings.seconds * len(cfgs) / one_round)))
        with progress('runs', len(cfgs) * (rounds + 1)) as done:
            times = in_turn(steps, rounds, done=done.advance)
    first = next(iter(times.values()))
    return [Speed(name, shapes[name][2:], settings.batch_size, *sizes[name], own,
                  statistics.median(there / here for there, here in zip(first, own))) for name, own in times.items()]


def find_dtype(device: str, name: Optional[str] = None) -> torch.dtype:
    """Number format of automatic mixed precision: by default bfloat16 on a CPU and float16, as in MMEngine, on a GPU.

    Raises:
        SetupError: the device has not this one.
    """
    allowed = ['bfloat16'] if device == 'cpu' else ['float16', 'bfloat16'] if torch.cuda.is_bf16_supported() else ['float16']
    if name is not None and name not in allowed:
        raise SetupError(f'--amp-dtype {name} is not there on device {device}; choose from {", ".join(allowed)}')
    return getattr(torch, name or allowed[0])


def _build(cfg: Any, settings: Settings) -> nn.Module:
    """The network of a config, or its backbone, on the device."""
    from mmengine.model import revert_sync_batchnorm
    torch.manual_seed(0)
    # as the runner does in a single process; a CPU has no SyncBN
    model = revert_sync_batchnorm(build_model(cfg)).to(settings.device).train(settings.train)
    if not (settings.backbone or settings.compile or settings.memory_format):
        return model
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise SetupError(f'{type(model).__name__} has no backbone, which --backbone, --compile, --channels-last and '
                         '--memory-format are for; leave them out')
    if isinstance(backbone, BaseBackbone):
        backbone.memory_format = settings.memory_format or backbone.memory_format
    elif settings.memory_format == 'channels_last':
        # images, too. The maps that leave are contiguous: mmcv's operators misread others
        backbone.to(memory_format=torch.channels_last)
        backbone.register_forward_pre_hook(
            lambda _, inputs: _each(lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, inputs))
        backbone.register_forward_hook(lambda _, inputs, maps: _each(Tensor.contiguous, maps))
    if settings.compile:
        backbone.forward = torch.compile(backbone.forward)
    return backbone if settings.backbone else model


def _each(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A function of all tensors in nested lists and tuples."""
    if isinstance(value, (list, tuple)):
        return tuple(_each(function, part) for part in value)
    return function(value) if isinstance(value, Tensor) else value


def step_of(model: nn.Module, images: Tensor, scope: str, settings: Settings) -> Step:
    """What is timed, of a model, or of a backbone where the settings say so, which has no scope."""
    autocast = partial(torch.autocast, images.device.type, settings.dtype) if settings.dtype else nullcontext
    if settings.dtype == torch.bfloat16 and scope == 'mmdet' and not settings.backbone:
        _cast_maps(model, autocast)
        autocast = nullcontext
    if settings.backbone:
        network = model
    elif settings.train:
        samples = _annotate(images, model, scope)

        def network(x: Tensor) -> Tensor:
            return model.parse_losses(model(x, _fresh(samples), mode='loss'))[0]
    else:
        network = partial(run_network, model, scope=scope, boxes=_spread_boxes(images, NUM_BOXES), verb='measured')

    def forward(x: Tensor) -> Any:
        with autocast():
            return network(x)

    def step() -> None:
        if settings.train and not settings.backbone:
            forward(images).backward()
        else:
            run(forward, images, settings.train)
        model.zero_grad(set_to_none=True)  # as a training does between its steps

    return step


def _cast_maps(detector: nn.Module, autocast: Callable[[], ContextManager]) -> None:
    """Backbone and neck of a detector run in mixed precision, its heads in float32: mmcv's operators have no bfloat16."""
    extract = detector.extract_feat

    def extract_feat(images: Tensor) -> Tuple[Tensor, ...]:
        with autocast():
            maps = extract(images)
        return _each(Tensor.float, maps)

    detector.extract_feat = extract_feat


def _spread_boxes(images: Tensor, number: int) -> Tensor:
    """Boxes of all sizes in all places, always the same ones, as `complexity.run_network` takes them.

    Images (B, C, H, W) and a number of boxes for each give (B * number, 5).
    """
    batch, _, height, width = images.shape
    generator = torch.Generator().manual_seed(0)
    part = _SMALLEST**-torch.rand(batch * number, 1, generator=generator)
    sides = part * torch.tensor([width, height])
    corners = torch.rand(batch * number, 2, generator=generator) * (torch.tensor([width, height]) - sides)
    index = torch.arange(batch, dtype=part.dtype).repeat_interleave(number)[:, None]
    return torch.cat([index, corners, corners + sides], dim=1).to(images.device)


def _annotate(images: Tensor, model: nn.Module, scope: str) -> list:
    """Data samples with made-up annotations, one for each of the images (B, C, H, W)."""
    height, width = images.shape[2:]
    if scope == 'mmpretrain':
        from mmpretrain.structures import DataSample
        samples = [DataSample().set_gt_label(0) for _ in images]
    elif scope == 'mmseg':
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample
        samples = data_samples(images, SegDataSample)
        for sample in samples:
            sample.gt_sem_seg = PixelData(data=torch.randint(model.num_classes, (1, height, width)))
    else:
        from mmdet.structures import DetDataSample
        from mmdet.structures.mask import BitmapMasks
        from mmengine.structures import InstanceData
        samples = data_samples(images, DetDataSample)
        for sample, boxes in zip(samples, _spread_boxes(images, _NUM_OBJECTS)[:, 1:].cpu().split(_NUM_OBJECTS)):
            masks = np.zeros((_NUM_OBJECTS, height, width), np.uint8)
            for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist()):
                mask[top:bottom + 1, left:right + 1] = 1
            sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.zeros(_NUM_OBJECTS, dtype=torch.long),
                                               masks=BitmapMasks(masks, height, width))
    return [sample.to(images.device) for sample in samples]


def _fresh(samples: Sequence[Any]) -> list:
    """Copies of data samples, but not of their tensors: some heads put other things into the samples that they get."""
    copies = [copy.copy(sample) for sample in samples]
    for sample in copies:
        if 'gt_instances' in sample:
            sample.gt_instances = copy.copy(sample.gt_instances)
    return copies


@contextmanager
def explained(name: str, settings: Settings) -> Iterator[None]:
    """Turn what a user can mend into a sentence that names the config."""
    try:
        yield
    except SetupError as error:
        raise SetupError(f'{name}: {error}') from error
    except (RuntimeError, ValueError) as error:
        text, dtype = str(error), str(settings.dtype).rpartition('.')[2]
        first_line = text.partition('\n')[0]
        if 'more than 1 value per channel' in text:
            fault = (f'--batch-size {settings.batch_size} is not allowed, since a BatchNorm over one value cannot train; give '
                     'a larger one, or a larger --shape')
        elif 'out of memory' in text or 'allocate memory' in text:
            fault = (f'--batch-size {settings.batch_size} needs more memory than there is; give a smaller one, or a smaller '
                     '--shape')
        elif settings.dtype and _NAMES_IN_ERRORS[dtype] in text:
            fault = f'--amp is not allowed, since an operator has no {dtype} ({first_line}); leave it out'
        elif settings.compile and type(error).__module__.startswith(('torch._dynamo', 'torch._inductor')):
            cause = ' '.join(text.split('\n')[:2]).strip()  # the first line says where, the second what
            fault = f'--compile is not allowed, since torch.compile fails ({cause}); leave it out'
        else:
            raise
        raise SetupError(f'{name}: {fault}') from error
