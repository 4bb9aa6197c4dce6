"""ParC (arXiv 2210.04020) in the place of chosen layers of an existing model. This file needs torch alone."""
import inspect
import logging
import math
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from .parc import ParCHW

Size = Tuple[int, int]
Select = Union[str, 're.Pattern', Sequence[str], Callable[[str, nn.Module], bool]]
Resolution = Union[int, Size, Mapping[str, Union[int, Size]], Callable[[str], Union[int, Size]]]

# What in self-attention does not mix positions: it stays, under its own name, so that its weights load as before.
_KEPT = ('DropPath', 'StochasticDepth', 'LayerScale')


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
    reasons = [f'{name} ({_describe(layer)}) {reason}' for name, layer in layers.items() for reason in _obstacles(layer)]
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
        else:
            new[id(layer)] = ParCForAttention(layer, size, extra, backend)
        seed = init if isinstance(layer, nn.Conv2d) else 'random'
        records.append(Replacement(name, _describe(layer), _channels(layer), size, seed))

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
        if any(True for _ in layer.parameters()) and not any(p.requires_grad for p in layer.parameters()):
            logger.warning('%s is frozen, and so is the ParC layer in its place', record.name)
    return records


def seed_taps(taps: Tensor, size: int, dilation: int = 1) -> Tensor:
    """Taps of a centred correlation as a ParC kernel computes the same on a ring: tap d looks d ahead, tap ``size`` - d
    looks d behind.

    Args:
        taps: (C, k), k odd, the centre in the middle.
        size: length of the ring. Taps that go around it more than once are added up.
        dilation: distance of neighbouring taps.

    Returns:
        (C, size).
    """
    count = taps.shape[1]
    places = (torch.arange(count, device=taps.device) - count // 2) * dilation % size
    return taps.new_zeros(taps.shape[0], size).index_add(1, places, taps)


class _LoadsHostWeights(nn.Module):
    """A layer that stands where another one stood, whose keys may come with a host's file."""

    host_keys: Tuple[str, ...] = ()

    def _from_host(self, host: Dict[str, Tensor]) -> Dict[str, Tensor]:
        return {}

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs) -> None:
        host = {key: state_dict.pop(prefix + key) for key in self.host_keys if prefix + key in state_dict}
        if host:
            # What the host cannot give stays, and is not missing in a strict load.
            own = {key: value.clone() for key, value in self.state_dict().items() if key not in host}
            for key, value in {**own, **self._from_host(host)}.items():
                state_dict.setdefault(prefix + key, value)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class ParCForConv(_LoadsHostWeights, ParCHW):
    """`ParCHW` in the place of a depthwise convolution.

    Args:
        conv: what stood there.
        base_size: (K_H, K_W).
        init: ``'random'`` or ``'from_kernel'``, at once and when the host's weights are loaded later.
        backend: of `ParCHW`.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    def __init__(self, conv: nn.Conv2d, base_size: Size, init: str, backend: str = 'auto') -> None:
        super().__init__(conv.out_channels, base_size, bias=conv.bias is not None, backend=backend)
        self.init = init
        self.dilation = conv.dilation
        self.host_keys = tuple(conv.state_dict())
        if init == 'from_kernel':
            self.load_state_dict({**self.state_dict(), **self._from_host(conv.state_dict())})
        _inherit(self, conv)

    def _from_host(self, host: Dict[str, Tensor]) -> Dict[str, Tensor]:
        if self.init == 'random' or 'weight' not in host:
            return {}
        kernel = host['weight'][:, 0]  # (C, k_H, k_W)
        half = len(kernel) // 2
        column = seed_taps(kernel[:half, :, kernel.shape[2] // 2], self.h.base_size, self.dilation[0])
        row = seed_taps(kernel[half:, kernel.shape[1] // 2], self.w.base_size, self.dilation[1])
        values = {
            'h.weight': column[:, None, :, None],
            'w.weight': row[:, None, None, :],
            'h.pos_embed': torch.zeros_like(self.h.pos_embed),
            'w.pos_embed': torch.zeros_like(self.w.pos_embed),
        }
        if 'bias' in host and self.h.bias is not None:
            values.update({'h.bias': host['bias'][:half].clone(), 'w.bias': host['bias'][half:].clone()})
        return values


class ParCForAttention(_LoadsHostWeights):
    """`ParCHW` in the place of self-attention, called as that was and with what that returned.

    Args:
        attention: what stood there.
        base_size: (K_H, K_W).
        extra_tokens: tokens in front of the map's; they get the mean over the map.
        backend: of `ParCHW`.

    Shape:
        (B, N, C), (N, B, C) where the host says so, (B, C, H, W) or (B, H, W, C) -> the same.

    Raises:
        ValueError: in the forward pass: the tokens are no map that is known, or come with a mask or another sequence.
    """

    # nn.TransformerEncoderLayer asks for these before it takes a shortcut past this module
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.Module, base_size: Size, extra_tokens: int = 0, backend: str = 'auto') -> None:
        super().__init__()
        self.base_size = base_size
        self.extra_tokens = extra_tokens
        self.arguments = _arguments(attention)
        self.adds_input = 'identity' in self.arguments  # mmcv's convention
        self.returns_weights = isinstance(attention, nn.MultiheadAttention)
        self.batch_first = getattr(attention, 'batch_first', True)
        self.channels_last = _channels_last(attention)
        self.parc = ParCHW(_channels(attention), base_size, backend=backend)
        self.kept = []
        for key, child in attention.named_children():
            if type(child).__name__ in _KEPT:
                self.add_module(key, child)
                self.kept.append(key)
        self.host_keys = tuple(key for key in attention.state_dict() if key.split('.')[0] not in self.kept)
        _inherit(self.parc, attention)
        self.training = attention.training

    def forward(self, *args, **kwargs) -> Union[Tensor, Tuple[Tensor, None]]:
        x, grid, identity = _read_call(self.arguments, args, kwargs)
        if x.dim() == 4:
            out = self.parc(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if self.channels_last else self.parc(x)
        elif self.batch_first:
            out = self._mix_tokens(x, grid)
        else:
            out = self._mix_tokens(x.transpose(0, 1), grid).transpose(0, 1)
        for key in self.kept:
            out = getattr(self, key)(out)
        if self.adds_input:
            out = out + (x if identity is None else identity)
        return (out, None) if self.returns_weights else out

    def _mix_tokens(self, x: Tensor, grid: Optional[Size]) -> Tensor:
        batch, count, channels = x.shape
        height, width = self._map_size(count, grid)
        extra = count - height * width
        # (B, N, C) -> (B, C, H, W)
        out = self.parc(x[:, extra:].reshape(batch, height, width, channels).permute(0, 3, 1, 2))
        out = out.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        if not extra:
            return out
        return torch.cat([out.mean(1, keepdim=True).expand(-1, extra, -1), out], 1)

    def _map_size(self, count: int, grid: Optional[Size]) -> Size:
        if grid is not None:
            if grid[0] * grid[1] > count:
                raise ValueError(f'{count} tokens are fewer than the {grid[0]}x{grid[1]} of the map that the host passes')
            return grid
        side = math.isqrt(max(count - self.extra_tokens, 0))
        for size in (self.base_size, (side, side)):
            if size[0] * size[1] == count - self.extra_tokens:
                return size
        raise ValueError(f'{count} tokens, {self.extra_tokens} of them in front of the map, are neither a square nor a map of '
                         f'{self.base_size[0]}x{self.base_size[1]}, and the host passes no height and width; give square '
                         'images, or call replace_with_parc with the resolution of the images')


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
    layers = {}
    for name, layer in candidates.items():
        parents = name.split('.')[:-1]
        if name in chosen and not any('.'.join(parents[:i + 1]) in layers for i in range(len(parents))):
            layers[name] = layer
    if not layers:
        possible = [name for name, layer in candidates.items() if _mixes_positions(layer) and not _obstacles(layer)]
        hint = f'layers that can be replaced: {_shorten(possible)}' if possible else 'it has none that could be replaced'
        raise ValueError(f'select={_show(select)} matches no depthwise convolution or self-attention of '
                         f'{type(module).__name__}, a module without any layer to replace; {hint}')
    return layers


def _mixes_positions(layer: nn.Module) -> bool:
    return max(layer.kernel_size) > 1 if isinstance(layer, nn.Conv2d) else _is_attention(layer)


def _is_attention(layer: nn.Module) -> bool:
    # torchvision, timm, mmpretrain, mmdet and mmseg have one class a paper, without a common base
    named_so = re.search(r'Attention|Attn|MSA|MHA', type(layer).__name__)
    has_heads = any(hasattr(m, heads) for m in layer.modules() for heads in ('num_heads', 'n_heads', 'heads'))
    return bool(named_so) and has_heads


def _obstacles(layer: nn.Module) -> List[str]:
    """Why ParC cannot stand in for the layer: one reason, or none."""
    if not isinstance(layer, nn.Conv2d):
        if not _is_attention(layer):
            return ['is neither a depthwise convolution nor self-attention']
        channels = _channels(layer)
        if channels is None:
            return ['does not tell its channels']
    else:
        channels = layer.out_channels
        if not layer.groups == layer.in_channels == channels:
            return [f'is not depthwise: groups={layer.groups}, {layer.in_channels} to {channels} channels']
        if max(layer.stride) > 1:
            return [f'has stride {max(layer.stride)}, ParC 1']
        if any(k % 2 == 0 for k in layer.kernel_size) or max(layer.kernel_size) == 1:
            return ['needs an odd kernel of more than one tap']
        same = tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size))
        if layer.padding != 'same' and tuple(layer.padding) != same:
            return [f'changes the size of the map: padding={layer.padding}, and {same} would keep it']
        if not isinstance(layer._parameters.get('weight'), nn.Parameter):
            return ['computes its weight from others, as spectral norm does; take that off before']
    if channels % 2:
        return [f'has {channels} channels; ParC needs an even number, half for H and half for W']
    return []


def _channels(layer: nn.Module) -> Optional[int]:
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    for module in layer.modules():  # mmpretrain's ShiftWindowMSA leaves them to the module inside
        for name in ('embed_dims', 'embed_dim'):
            if isinstance(getattr(module, name, None), int):
                return getattr(module, name)
    if isinstance(getattr(layer, 'dim', None), int):
        return layer.dim
    first = _first_projection(layer)
    return None if first is None else first.in_features if isinstance(first, nn.Linear) else first.in_channels


def _first_projection(layer: nn.Module) -> Optional[nn.Module]:
    return next((m for m in layer.modules() if isinstance(m, (nn.Linear, nn.Conv2d))), None)


def _channels_last(attention: nn.Module) -> bool:
    """Whether a 4-D input is (B, H, W, C): a Linear projects the last axis, a 1x1 convolution the second."""
    return isinstance(_first_projection(attention), nn.Linear)


def _arguments(attention: nn.Module) -> List[str]:
    parameters = inspect.signature(attention.forward).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def _read_call(names: Sequence[str], args: tuple, kwargs: Dict[str, Any]) -> Tuple[Tensor, Optional[Size], Optional[Tensor]]:
    """The input, height and width if the host passes them, and the residual if it passes that.

    Raises:
        ValueError: there is anything else that attention would use.
    """
    call = {names[i] if i < len(names) else f'argument {i}': value for i, value in enumerate(args)}
    call.update(kwargs)
    x = call.pop(next(iter(call)) if args else names[0])
    identity = call.pop('identity', None)
    grid = (call.pop('H'), call.pop('W')) if isinstance(call.get('H'), int) and isinstance(call.get('W'), int) else None
    for name, value in call.items():
        if isinstance(value, Tensor) and value is not x:
            raise ValueError(f'the host passes {name!r} to self-attention, a tensor that ParC cannot use; leave this layer out '
                             'of `select` (or, if it is the attention inside of windows, select the module around it)')
        if isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(v, int) for v in value):
            grid = tuple(value)
    return x, grid, identity


def _traced_sizes(module: nn.Module, layers: Dict[str, nn.Module], image: Size,
                  extra_tokens: Optional[int]) -> Dict[str, Tuple[Size, int]]:
    """Map size and number of extra tokens of each layer when an image of the given size goes through the model."""
    found, calls = {}, {}

    def watch(name: str):

        def hook(layer, args, kwargs, out) -> None:  # what a hook returns would replace the output
            calls.setdefault(name, (args, kwargs, out))

        return hook

    handles = [layer.register_forward_hook(watch(name), with_kwargs=True) for name, layer in layers.items()]
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
    for name, layer in layers.items():
        if name not in calls:
            raise ValueError(f'{name} does not run in the forward pass of {type(module).__name__}; {by_name}')
        try:
            found[name] = _map_of_call(layer, *calls[name], image, extra_tokens)
        except ValueError as error:
            raise ValueError(f'{name} ({_describe(layer)}) cannot be replaced at resolution={image}: {error}') from None
    return found


def _map_of_call(layer: nn.Module, args: tuple, kwargs: Dict[str, Any], out: Any, image: Size,
                 extra_tokens: Optional[int]) -> Tuple[Size, int]:
    if isinstance(layer, nn.Conv2d):
        return tuple(out.shape[2:]), 0
    x, grid, _ = _read_call(_arguments(layer), args, kwargs)
    out = out[0] if isinstance(layer, nn.MultiheadAttention) else out
    if not isinstance(out, Tensor) or out.shape != x.shape or x.dim() not in (3, 4) or _channels(layer) not in x.shape:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f'it maps {tuple(x.shape)} to {got}; ParC needs (B, N, C) or (B, C, H, W) and the same out')
    if x.dim() == 4:
        return tuple(x.shape[1:3] if _channels_last(layer) else x.shape[2:]), 0
    count = x.shape[1 if getattr(layer, 'batch_first', True) else 0]
    window = getattr(layer, 'window_size', None)
    if grid is None and isinstance(window, (tuple, list)) and window[0] * window[1] == count:
        grid = tuple(window)
    if grid is None:
        return _map_of_image(count, image, extra_tokens)
    return grid, count - grid[0] * grid[1]


def _map_of_image(count: int, image: Size, extra_tokens: Optional[int]) -> Tuple[Size, int]:
    """The map that ``count`` tokens are when every token stands for a square of the image, and the number of tokens in front
    of it."""
    fits = []
    for extra in range(3) if extra_tokens is None else [extra_tokens]:
        rest = count - extra
        for step in range(1, min(image) + 1):  # pixels a token; a rest of the image is dropped or padded
            padded = any(side % step for side in image)
            for size in ((image[0] // step, image[1] // step), (-(-image[0] // step), -(-image[1] // step))):
                if size[0] * size[1] == rest:
                    fits.append((padded, extra, size))
        side = math.isqrt(max(rest, 0))
        if image[0] == image[1] and side * side == rest > 0:
            fits.append((True, extra, (side, side)))
    if not fits:
        raise ValueError(f'{count} tokens are no map of the image with '
                         f'{"at most 2" if extra_tokens is None else extra_tokens} tokens in front; set extra_tokens')
    _, extra, size = min(fits)
    return size, extra


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


def _inherit(layer: nn.Module, host: nn.Module) -> None:
    """Device, dtype, mode and freezing of what the layer replaces."""
    parameter = next(host.parameters())
    layer.to(parameter.device, parameter.dtype).train(host.training)
    layer.requires_grad_(any(p.requires_grad for p in host.parameters()))


def _describe(layer: nn.Module) -> str:
    kernel = f' {layer.kernel_size[0]}x{layer.kernel_size[1]}' if isinstance(layer, nn.Conv2d) else ''
    return type(layer).__name__ + kernel


def _show(select: Select) -> str:
    return getattr(select, '__name__', None) or (repr(select.pattern) if isinstance(select, re.Pattern) else repr(select))


def _shorten(names: List[str]) -> str:
    return ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')
