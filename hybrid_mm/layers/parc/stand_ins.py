"""ParC (arXiv 2210.04020) in the place of one convolution or one self-attention."""
import math
from typing import Dict, Optional, Tuple, Union

import torch
from torch import Tensor, nn

from .host_attention import Size, argument_names, attention_channels, is_channels_last, read_call
from .modules import ParCHW

# What in self-attention does not mix positions: it stays, under its own name, so that its weights load as before.
_KEPT = ('DropPath', 'StochasticDepth', 'LayerScale')


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
        if 'bias' in host:
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
        self.arguments = argument_names(attention)
        self.adds_input = 'identity' in self.arguments  # mmcv's convention
        self.returns_weights = isinstance(attention, nn.MultiheadAttention)
        self.batch_first = getattr(attention, 'batch_first', True)
        self.channels_last = is_channels_last(attention)
        channels = attention_channels(attention)
        assert channels is not None  # `select` takes no other attention
        self.parc = ParCHW(channels, base_size, backend=backend)
        self.kept = []
        for key, child in attention.named_children():
            if type(child).__name__ in _KEPT:
                self.add_module(key, child)
                self.kept.append(key)
        self.host_keys = tuple(key for key in attention.state_dict() if key.split('.')[0] not in self.kept)
        _inherit(self.parc, attention)
        self.training = attention.training

    def forward(self, *args, **kwargs) -> Union[Tensor, Tuple[Tensor, None]]:
        x, grid, identity = read_call(self.arguments, args, kwargs)
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


def _inherit(layer: nn.Module, host: nn.Module) -> None:
    """Device, dtype, mode and freezing of what the layer replaces."""
    parameter = next(host.parameters())
    layer.to(parameter.device, parameter.dtype).train(host.training)
    layer.requires_grad_(any(p.requires_grad for p in host.parameters()))
