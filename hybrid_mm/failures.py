"""Which module of a network an error comes from, read from its traceback, and what does not meet there. Needs torch alone."""
import inspect
import re
from traceback import walk_tb
from types import FrameType
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from .errors import first_line

Shape = Tuple[int, ...]

# what torch says where sizes do not agree
_OF_SIZES = re.compile('must match the size of tensor|Sizes of tensors must match|shapes cannot be multiplied|normalized_shape|'
                       'is invalid for input of size|elements? not |have the same number of dimensions')

_CALLS = ('_wrapped_call_impl', '_call_impl', 'forward')  # what runs where a module is called, the outermost first


class Step(NamedTuple):
    """A module that was running."""
    name: str  # as in a config, ``model.neck``, if the network has a backbone; else in the network; empty for the network itself
    module: nn.Module
    shapes: List[Shape]  # of the tensors that it was called with; none where another method of it was running, such as its loss

    def __str__(self) -> str:
        return f'{self.name} ({type(self.module).__name__})' if self.name else type(self.module).__name__


def running_modules(error: BaseException, network: Optional[nn.Module] = None) -> List[Step]:
    """The modules that were running when an error was raised, from the network, by default the outermost, to the innermost."""
    running = [(frame, frame.f_locals['self']) for frame, _ in walk_tb(error.__traceback__)
               if isinstance(frame.f_locals.get('self'), nn.Module)]
    while running and type(running[0][1]).__name__.endswith(('DataParallel', 'OptimizedModule')):  # wrappers
        running.pop(0)
    steps: List[Step] = []
    if running:
        network = running[0][1] if network is None else network
        names = {id(module): name for name, module in network.named_modules(prefix='model' if any(
            hasattr(network, part) for part in ('backbone', 'data_preprocessor')) else '')}
        names[id(network)] = ''
        for frame, module in running:
            if not steps or steps[-1].module is not module:
                steps.append(Step(names.get(id(module), type(module).__name__), module, []))
            # a frame behind the first, such as forward's own, may have other things under the names of its arguments
            if not steps[-1].shapes and frame.f_code.co_name in _CALLS:
                steps[-1].shapes.extend(_shapes(_arguments(frame)))
    return steps


def explain(error: BaseException, network: Optional[nn.Module] = None) -> Optional[str]:
    """What does not meet in a network, in one sentence; None where the error is of another kind.

    Of this kind are numbers of channels and of maps that differ, sizes that torch says do not agree, and a norm layer that has
    one value a channel in training.
    """
    steps = running_modules(error, network) if isinstance(error, (RuntimeError, ValueError, AssertionError, IndexError)) else []
    if not steps:
        return None
    leaf = steps[-1]
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return None
    if isinstance(error, ValueError) and str(error).startswith('Expected more than 1'):
        return one_value(leaf)
    if any(step.name.endswith('data_preprocessor') for step in steps):
        return _of_preprocessor(next(step for step in steps if step.name.endswith('data_preprocessor')))
    wanted = _wanted(leaf)
    parts = [f'{leaf} expects {_count(wanted[0])} and gets {wanted[1]}'] if wanted else []
    for step in steps:
        disagreement = _disagreement(step)
        if disagreement is not None and (step.module is not leaf.module or not wanted):
            parts += disagreement
            break
    if wanted and len(parts) == 1:
        parts.append(f'make {_of_config(leaf)} fit what comes before it')
    if not parts and leaf.shapes and _OF_SIZES.search(first_line(error)):
        parts = [f'{leaf} fails on an input of {sizes(leaf.shapes)}: {first_line(error)}']
    return '; '.join(parts) or None


def one_value(step: Step) -> str:
    """What to do about a norm layer that has one value a channel, which has no variance."""
    part = _of_config(step)
    norm_eval = f'norm_eval=True of {part}, ' if 'head' not in part else ''
    cure = 'give larger pictures' if isinstance(step.module, _InstanceNorm) else (
        'give batches of two pictures or more (train_dataloader.drop_last=True leaves out a last batch of one), larger pictures '
        f"unless it is behind a global pooling, {norm_eval}or norm_cfg=dict(type='GN', num_groups=1) of {part}")
    return f'{step} has one value a channel, {sizes(step.shapes)}, which has no variance to train with; {cure}'


def sizes(shapes: Sequence[Shape]) -> str:
    """Such as ``2x64x7x7, 2x64x4x4``."""
    return ', '.join('x'.join(map(str, shape)) for shape in shapes) or 'no tensors'


def _wanted(step: Step) -> Optional[Tuple[int, int]]:
    """Channels that a layer expects and those that it gets, if they differ."""
    module = step.module
    if not step.shapes:
        return None
    shape = step.shapes[0]
    last = isinstance(module, (nn.Linear, nn.LayerNorm)) and 'LayerNorm2d' not in type(module).__name__
    axis = -1 if last else -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else 1
    if len(shape) < 2 or -axis > len(shape):
        return None
    for name in ('in_channels', 'in_features', 'num_features', 'num_channels', 'normalized_shape'):
        wanted = getattr(module, name, None)
        if wanted is not None and isinstance(module, (_ConvNd, nn.Linear, _BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)):
            wanted = wanted[-1] if isinstance(wanted, tuple) else wanted
            return (wanted, shape[axis]) if wanted != shape[axis] else None
    return None


def _disagreement(step: Step) -> Optional[List[str]]:
    """What a part of the network says of its input and what it gets, and what to do, if they differ."""
    has, index = getattr(step.module, 'in_channels', None), getattr(step.module, 'in_index', None)
    maps = [shape[1] for shape in step.shapes if len(shape) in (2, 4)]
    if has is None or not maps or isinstance(step.module, _ConvNd):
        return None
    got = f'gets {sizes(step.shapes)}'
    if index is not None:
        indices = list(index) if isinstance(index, (list, tuple)) else [index]
        if not all(-len(maps) <= i < len(maps) for i in indices):
            return [f'{step} has in_index={index}, and {got}', f'choose its in_index from 0 to {len(maps) - 1}']
        maps = [maps[i] for i in indices]
    if isinstance(has, (list, tuple)):
        if list(has) == maps:
            return None
        value: Any = maps
    else:
        summed = getattr(step.module, 'input_transform', None) == 'resize_concat'
        value = sum(maps) if summed else maps[-1]
        if has == value:
            return None
        value = maps if summed else value
    prefix = f'{step.name}.' if step.name else ''
    advice = f'set {prefix}in_channels={value}'
    if not step.name or step.name.endswith('backbone'):
        advice += f', or let the pipeline of the data deliver pictures of {_count(has)}'
    return [f'{step} has in_channels={has}, and {got}', advice]


def _of_preprocessor(step: Step) -> Optional[str]:
    """Pictures and the mean that is taken from them, or the swap of red and blue."""
    if not step.shapes:
        return None
    shape, mean = step.shapes[0], getattr(step.module, 'mean', None)
    channels = shape[-3] if len(shape) > 2 else None
    values = mean.numel() if isinstance(mean, Tensor) else None
    swaps = any(getattr(step.module, name, False) for name in ('_channel_conversion', 'channel_conversion', 'to_rgb'))
    if channels is None or (values in (None, 1, channels) and not (swaps and channels != 3)):
        return None
    has = [f'mean and std of {values} values'] if values not in (None, 1, channels) else []
    has += ['a swap of red and blue, bgr_to_rgb or rgb_to_bgr'] if swaps and channels != 3 else []
    return (f'{step} has {" and ".join(has)}, and the pictures have {_count(channels)}; give it what is for {_count(channels)}, '
            'or let the pipeline of the data deliver others')


def _count(channels: int) -> str:
    return f'{channels} channel{"" if channels == 1 else "s"}'


def _of_config(step: Step) -> str:
    """The part of the config that a module is of: ``model.roi_head.bbox_head`` of ``model.roi_head.bbox_head.shared_fcs.0``."""
    words = step.name.split('.')
    heads = [i for i, word in enumerate(words) if word in ('backbone', 'neck') or word.endswith('head')]
    return '.'.join(words[:heads[-1] + 1]) if heads else 'the backbone'


def _arguments(frame: FrameType) -> List[Any]:
    """Arguments of the function of a frame, without ``self``."""
    names, varargs, varkw, values = inspect.getargvalues(frame)
    given = [values[name] for name in names[1:] if name in values]
    return [*given, *values.get(varargs or '', ()), *values.get(varkw or '', {}).values()]


def _shapes(value: Any, depth: int = 3) -> Iterator[Shape]:
    """Shapes of the tensors in nested containers."""
    if isinstance(value, Tensor):
        yield tuple(value.shape)
    elif depth and isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _shapes(part, depth - 1)
