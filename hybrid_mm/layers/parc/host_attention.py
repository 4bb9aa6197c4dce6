"""Self-attention of other libraries, read from outside: its channels, arguments and map.

torchvision, timm, mmpretrain, mmdet and mmseg have one class a paper, without a common base, so names, attributes and calls
have to tell.
"""
import inspect
import math
import re
from typing import Any, Dict, List, Optional, Sequence, Tuple

from torch import Tensor, nn

Size = Tuple[int, int]


def is_attention(layer: nn.Module) -> bool:
    """Whether a layer is named after attention and has heads."""
    named_so = re.search(r'Attention|Attn|MSA|MHA', type(layer).__name__)
    has_heads = any(hasattr(m, heads) for m in layer.modules() for heads in ('num_heads', 'n_heads', 'heads'))
    return bool(named_so) and has_heads


def attention_channels(attention: nn.Module) -> Optional[int]:
    """C of the input, or None if nothing tells."""
    for module in attention.modules():  # mmpretrain's ShiftWindowMSA leaves them to the module inside
        for name in ('embed_dims', 'embed_dim'):
            if isinstance(getattr(module, name, None), int):
                return getattr(module, name)
    if isinstance(getattr(attention, 'dim', None), int):
        return attention.dim
    first = _first_projection(attention)
    if first is None:
        return None
    return first.in_features if isinstance(first, nn.Linear) else first.in_channels


def _first_projection(attention: nn.Module) -> Optional[nn.Module]:
    return next((m for m in attention.modules() if isinstance(m, (nn.Linear, nn.Conv2d))), None)


def is_channels_last(attention: nn.Module) -> bool:
    """Whether a 4-D input is (B, H, W, C): a Linear projects the last axis, a 1x1 convolution the second."""
    return isinstance(_first_projection(attention), nn.Linear)


def argument_names(attention: nn.Module) -> List[str]:
    """The arguments of its forward pass, without ``*args`` and ``**kwargs``."""
    parameters = inspect.signature(attention.forward).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def read_call(names: Sequence[str], args: tuple, kwargs: Dict[str, Any]) -> Tuple[Tensor, Optional[Size], Optional[Tensor]]:
    """The input, height and width if the host passes them, and the residual if it passes that.

    Args:
        names: `argument_names` of the attention that is called.
        args, kwargs: what the host passes.

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


def map_of_call(attention: nn.Module, args: tuple, kwargs: Dict[str, Any], out: Any, image: Size,
                extra_tokens: Optional[int]) -> Tuple[Size, int]:
    """Map size and number of tokens in front of the map in one call.

    Args:
        attention: what was called.
        args, kwargs: what the host passed.
        out: what attention returned.
        image: (H, W) of the image that went through the host.
        extra_tokens: tokens in front of the map, None if unknown; only asked where nothing else tells the map.

    Raises:
        ValueError: the call is none that ParC could answer, or the tokens are no map of the image.
    """
    x, grid, _ = read_call(argument_names(attention), args, kwargs)
    out = out[0] if isinstance(attention, nn.MultiheadAttention) else out
    same = isinstance(out, Tensor) and out.shape == x.shape
    if not same or x.dim() not in (3, 4) or attention_channels(attention) not in x.shape:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f'it maps {tuple(x.shape)} to {got}; ParC needs (B, N, C) or (B, C, H, W) and the same out')
    if x.dim() == 4:
        return tuple(x.shape[1:3] if is_channels_last(attention) else x.shape[2:]), 0
    count = x.shape[1 if getattr(attention, 'batch_first', True) else 0]
    window = getattr(attention, 'window_size', None)
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
