"""ParC (arXiv 2210.04020) in the place of chosen layers of an existing model."""
import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import nn

from .host_attention import Size, attention_channels, is_attention, map_of_call
from .stand_ins import ParCForAttention, ParCForConv

Select = Union[str, 're.Pattern', Sequence[str], Callable[[str, nn.Module], bool]]
Resolution = Union[int, Size, Mapping[str, Union[int, Size]], Callable[[str], Union[int, Size]]]


@dataclass(frozen=True)
class Replacement:
    """One replaced layer.

    Attributes:
        name: dotted name in the model.
        was: what stood there, such as ``'Conv2d 7x7'``.
        channels: C.
        base_size: (K_H, K_W) of the ParC layer.
        init: ``'random'`` or ``'from_kernel'``. Self-attention has no kernel, so there it is always ``'random'``.
    """
    name: str
    was: str
    channels: int
    base_size: Size
    init: str

    def __str__(self) -> str:
        return (f'{self.name}: {self.was} -> ParC, {self.channels} channels, base size '
                f'{self.base_size[0]}x{self.base_size[1]}, init {self.init}')


def replace_with_parc(module: nn.Module,
                      select: Select,
                      resolution: Resolution,
                      init: str = 'random',
                      backend: str = 'auto',
                      extra_tokens: Optional[int] = None) -> List[Replacement]:
    """Put ParC in the place of chosen depthwise convolutions and self-attention layers of a model, in place.

    Do it before training. Everything that is not replaced keeps its weights and its key. A file of the host's weights still
    loads, strictly too, before or after: afterwards a replaced layer takes its own keys out of the file, and either seeds
    itself by them (``init='from_kernel'``) or goes on with what it has (``init='random'``).

    What can be replaced:

    - depthwise Conv2d (groups = input channels = output channels) with stride 1, odd kernel and padding that keeps the size.
      ParC has a bias where the convolution had one.
    - self-attention that maps (B, N, C), (B, C, H, W) or (B, H, W, C) to the same shape, as in mmpretrain, mmdet, mmseg, timm,
      torchvision, and ``nn.MultiheadAttention``. Its projections go with it, its DropPath and LayerScale stay, and a
      residual that the host leaves to it (mmcv's ``identity``) stays inside. A mask, a second sequence or anything else that
      only attention can use is an error.

    The map of (B, N, C) tokens: the height and width that the host passes, as mmpretrain's Swin does; else the base size, if
    it has as many positions; else a square. mmpretrain's VisionTransformer passes nothing: give it square images, or images
    of the ``resolution``. Class tokens stand in front of the map's tokens and get the mean of what ParC makes of the map, so
    that they still see it.

    Args:
        module: any model; the layer itself cannot be given, but what holds it.
        select: names of layers; or a regular expression, searched in dotted names; or ``(name, module) -> bool``. The latter
            two are asked about convolutions with more than one tap and self-attention alone. Layers inside of a selected one
            go with it.
        resolution: base size of each new layer. An image size, int for a square or (H, W): one forward pass of a zero image
            through the model, in evaluation mode, finds the map of each layer. Or a dict from layer name to base size, or
            ``name -> base size``, an int or (K_H, K_W), for models that take no image.
        init: ``'random'``: as `ParCHW` starts. ``'from_kernel'``: the first half of the channels takes the central column of
            the replaced kernel and the second half the central row, shifted so that the centre tap lies on tap 0, wrapped
            around the ring, zero elsewhere; bias copied, position embedding zero.
        backend: of `ParCHW`.
        extra_tokens: class and distillation tokens in front of the map's tokens. None: what the forward pass shows, up to
            two; none where there is no forward pass. Hosts that pass height and width do not need it.

    Returns:
        What was replaced, in the model's order. It is logged too, to the logger ``hybrid_mm``, level INFO.

    Raises:
        ValueError: no layer is selected, a selected layer cannot be replaced, or an argument is not allowed. The model is then
            as it was.
    """
    if init not in ('random', 'from_kernel'):
        raise ValueError(f'init={init!r} is unknown; choose from random, from_kernel')
    layers = _selected(module, select)
    obstacles = {name: _obstacle(layer) for name, layer in layers.items()}
    reasons = [f'{name} ({_describe(layers[name])}) {reason}' for name, reason in obstacles.items() if reason]
    if reasons:
        more = f'; and {len(reasons) - 3} more' if len(reasons) > 3 else ''
        raise ValueError(f'select={_show(select)} asks for layers that ParC cannot replace: {"; ".join(reasons[:3])}{more}. '
                         'Narrow `select`')
    if isinstance(resolution, Mapping) or callable(resolution):
        maps = {name: (_given_size(resolution, name), extra_tokens or 0) for name in layers}
    else:
        maps = _traced_sizes(module, layers, _pair(resolution, 'resolution'), extra_tokens)

    new, records = {}, []
    for name, layer in layers.items():
        size, extra = maps[name]
        if isinstance(layer, nn.Conv2d):
            new[id(layer)] = ParCForConv(layer, size, init, backend)
            records.append(Replacement(name, _describe(layer), layer.out_channels, size, init))
        else:
            new[id(layer)] = ParCForAttention(layer, size, extra, backend)
            records.append(Replacement(name, _describe(layer), new[id(layer)].parc.h.channels * 2, size, 'random'))

    for parent in list(module.modules()):
        for key, child in parent._modules.items():  # a layer that two parents share is replaced in both
            if id(child) in new:
                parent._modules[key] = new[id(child)]
                # mmcv's ConvModule: a shortcut that reads the weight of a convolution
                if getattr(parent, 'efficient_conv_bn_eval_forward', None) is not None:
                    parent.efficient_conv_bn_eval_forward = None
    logger = logging.getLogger('hybrid_mm')
    for record, layer in zip(records, layers.values()):
        logger.info('%s', record)
        if not any(p.requires_grad for p in layer.parameters()):
            logger.warning('%s is frozen, and so is the ParC layer in its place', record.name)
    return records


def _selected(module: nn.Module, select: Select) -> Dict[str, nn.Module]:
    """The outermost selected layers, by name."""
    candidates = {name: layer for name, layer in module.named_modules() if name}
    if isinstance(select, (str, re.Pattern)):
        try:
            pattern = re.compile(select)
        except re.error as error:
            raise ValueError(f'select={select!r} is no regular expression: {error}') from None
        chosen = {name for name, layer in candidates.items() if _mixes_positions(layer) and pattern.search(name)}
    elif callable(select):
        chosen = {name for name, layer in candidates.items() if _mixes_positions(layer) and select(name, layer)}
    else:
        chosen = set(select)
        unknown = [str(name) for name in select if name not in candidates]
        if unknown:
            raise ValueError(f'select names {", ".join(unknown)}, which {type(module).__name__} does not have')
    layers: Dict[str, nn.Module] = {}
    for name, layer in candidates.items():
        if name in chosen and not any(name.startswith(f'{outer}.') for outer in layers):
            layers[name] = layer
    if not layers:
        possible = [name for name, layer in candidates.items() if _mixes_positions(layer) and not _obstacle(layer)]
        hint = f'layers that can be replaced: {_shorten(possible)}' if possible else 'it has none that could be replaced'
        raise ValueError(f'select={_show(select)} matches no depthwise convolution or self-attention of '
                         f'{type(module).__name__}, a module without any layer to replace; {hint}')
    return layers


def _mixes_positions(layer: nn.Module) -> bool:
    return max(layer.kernel_size) > 1 if isinstance(layer, nn.Conv2d) else is_attention(layer)


def _obstacle(layer: nn.Module) -> Optional[str]:
    """Why ParC cannot stand in for the layer, or None if it can."""
    if not isinstance(layer, nn.Conv2d):
        if not is_attention(layer):
            return 'is neither a depthwise convolution nor self-attention'
        channels = attention_channels(layer)
        if channels is None:
            return 'does not tell its channels'
    else:
        channels = layer.out_channels
        if not layer.groups == layer.in_channels == channels:
            return f'is not depthwise: groups={layer.groups}, {layer.in_channels} to {channels} channels'
        if max(layer.stride) > 1:
            return f'has stride {max(layer.stride)}, ParC 1'
        if any(k % 2 == 0 for k in layer.kernel_size) or max(layer.kernel_size) == 1:
            return 'needs an odd kernel of more than one tap'
        same = tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size))
        if layer.padding != 'same' and tuple(layer.padding) != same:
            return f'changes the size of the map: padding={layer.padding}, and {same} would keep it'
        if not isinstance(layer._parameters.get('weight'), nn.Parameter):
            return 'computes its weight from others, as spectral norm does; take that off before'
    if channels % 2:
        return f'has {channels} channels; ParC needs an even number, half for H and half for W'
    return None


def _traced_sizes(module: nn.Module, layers: Dict[str, nn.Module], image: Size,
                  extra_tokens: Optional[int]) -> Dict[str, Tuple[Size, int]]:
    """Map size and number of extra tokens of each layer when an image of the given size goes through the model."""
    calls: Dict[str, tuple] = {}

    def note(name, layer, args, kwargs, out) -> None:  # what a hook returns would replace the output
        calls.setdefault(name, (args, kwargs, out))

    handles = [layer.register_forward_hook(partial(note, name), with_kwargs=True) for name, layer in layers.items()]
    parameter = next(module.parameters())
    stem = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    x = torch.zeros(1, stem.in_channels if stem is not None else 3, *image, device=parameter.device, dtype=parameter.dtype)
    by_name = 'give base sizes by name, resolution={name: size}'
    try:
        with _evaluation_mode(module), torch.no_grad():
            module(x)
    except Exception as error:  # the host's own forward pass, which can raise anything
        raise ValueError(f'resolution={image}: a zero image {tuple(x.shape)} does not go through {type(module).__name__} '
                         f'({type(error).__name__}: {error}); {by_name}') from error
    finally:
        for handle in handles:
            handle.remove()
    found = {}
    for name, layer in layers.items():
        if name not in calls:
            raise ValueError(f'{name} does not run in the forward pass of {type(module).__name__}; {by_name}')
        args, kwargs, out = calls[name]
        if isinstance(layer, nn.Conv2d):
            found[name] = tuple(out.shape[2:]), 0
            continue
        try:
            found[name] = map_of_call(layer, args, kwargs, out, image, extra_tokens)
        except ValueError as error:
            raise ValueError(f'{name} ({_describe(layer)}) cannot be replaced at resolution={image}: {error}') from None
    return found


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    modes = [(m, m.training) for m in module.modules()]
    for m, _ in modes:  # not by eval(), which a host may have overridden
        m.training = False
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


def _given_size(resolution: Union[Mapping, Callable], name: str) -> Size:
    if callable(resolution):
        size = resolution(name)
    elif name in resolution:
        size = resolution[name]
    else:
        raise ValueError(f'resolution has no base size for {name}; it names {_shorten(list(resolution)) or "nothing"}')
    return _pair(size, f'the base size of {name}')


def _pair(size: Union[int, Sequence[int]], what: str) -> Size:
    pair = (size, size) if isinstance(size, int) else size
    if not (isinstance(pair, (tuple, list, torch.Size)) and len(pair) == 2 and all(isinstance(s, int) and s > 0 for s in pair)):
        raise ValueError(f'{what}={size!r} is not allowed; give a positive int, or two of them')
    return tuple(pair)


def _describe(layer: nn.Module) -> str:
    kernel = f' {layer.kernel_size[0]}x{layer.kernel_size[1]}' if isinstance(layer, nn.Conv2d) else ''
    return type(layer).__name__ + kernel


def _show(select: Select) -> str:
    return getattr(select, '__name__', None) or (repr(select.pattern) if isinstance(select, re.Pattern) else repr(select))


def _shorten(names: List[str]) -> str:
    return ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')
