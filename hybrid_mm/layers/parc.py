"""Position-aware circular convolution (ParC), arXiv 2203.03952, and its exact fast forms (Fast-ParC, arXiv 2210.04020).

A kernel as long as the map runs along one axis and wraps around its end, so that every output sees its whole line. A learned
position embedding gives back the position that wrapping loses. `ParC2d` is the operator along one axis; `ParCHW` puts one along H
and one along W side by side, each on half of the channels, as the papers' blocks do.

This file, circular_correlation.py and parc_crossovers.py need torch alone.
"""
from typing import NamedTuple, Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .circular_correlation import circular_correlation, correlate_prepared, direct, no_autocast, prepare
from .parc_crossovers import choose_backend

_BACKENDS = ('auto', 'direct', 'fft', 'gemm')
_MAX_SIZES = 8  # map sizes whose prepared kernels an evaluation keeps; multi-scale testing needs about as many


class ParC2d(nn.Module):
    """Position-aware circular convolution along one axis of a map, arXiv 2203.03952, section 3.

    .. code-block:: text

        axis H:   y[c,i,j] = bias[c] + sum over k of weight[c,k] (x + pos_embed)[c, (i+k) mod H, j]
        axis W:   the same with j and W

    Kernel and position embedding are stored at the base size K, the map's size at the training resolution, and resized to the map
    (bilinear, align_corners=True); at size K they are used as they are. Any H and W run.

    Args:
        channels: C, of input and output.
        axis: ``'H'`` or ``'W'``.
        base_size: K, 1 or more: size of kernel and position embedding.
        depthwise: one kernel a channel; otherwise one for each pair of channels, summed over the input's.
        bias: add a learned bias.
        pos_embed: add a learned position embedding to the input.
        backend: how it is computed. All give the same result but for rounding.

            - ``'direct'``: a convolution on the map followed by itself, as the authors' code. The way to export.
            - ``'fft'``: Fast-ParC, a product of spectra. In float16 and bfloat16, which torch cannot transform, it computes in
              float32 inside.
            - ``'gemm'``: products with circulant matrices.
            - ``'auto'``: the fastest by measurement, see `hybrid_mm.layers.parc_crossovers.choose_backend`.

    Shape:
        (B, C, H, W) -> (B, C, H, W), in the memory format of the input.

    Raises:
        ValueError: an argument is outside of what is allowed.

    Note:
        In evaluation without gradients, what depends on the weights alone is computed once a map size and kept until a weight
        changes or `train` or `eval` is called. On a GPU a change is seen by the parameter's version and address: after writing
        through ``.data``, which leaves both as they are, call ``eval()``.
    """

    def __init__(self,
                 channels: int,
                 axis: str,
                 base_size: int,
                 depthwise: bool = True,
                 bias: bool = True,
                 pos_embed: bool = True,
                 backend: str = 'auto') -> None:
        super().__init__()
        if axis not in ('H', 'W'):
            raise ValueError(f"axis={axis!r} is not allowed; choose 'H' or 'W'")
        if backend not in _BACKENDS:
            raise ValueError(f'backend={backend!r} is unknown; choose from {", ".join(_BACKENDS)}')
        for name, value in (('channels', channels), ('base_size', base_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f'{name}={value!r} is not allowed; choose an integer, 1 or more')
        self.channels = channels
        self.axis = axis
        self.base_size = base_size
        self.depthwise = depthwise
        self.backend = backend

        size = (base_size, 1) if axis == 'H' else (1, base_size)
        self.weight = nn.Parameter(torch.empty(channels, 1 if depthwise else channels, *size))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.pos_embed = nn.Parameter(torch.empty(1, channels, *size)) if pos_embed else None
        self._prepared = _Prepared()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal kernel and embedding of std 0.02, zero bias, as released ParC-ConvNeXt."""
        nn.init.trunc_normal_(self.weight, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, None)

    def write(self, x: Tensor, out: Tensor) -> None:
        """Write the result into ``out``, a map of the shape of x that may be part of a larger one; no gradients."""
        with torch.no_grad():
            self._run(x, out)

    def train(self, mode: bool = True) -> 'ParC2d':
        self._prepared = _Prepared()
        return super().train(mode)

    def extra_repr(self) -> str:
        return (f'{self.channels}, axis={self.axis!r}, base_size={self.base_size}, depthwise={self.depthwise}, '
                f'bias={self.bias is not None}, pos_embed={self.pos_embed is not None}, backend={self.backend!r}')

    def _run(self, x: Tensor, out: Optional[Tensor]) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f'the input has the shape {tuple(x.shape)}; it needs (B, {self.channels}, H, W)')
        if _is_autocast(x):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        n = x.shape[2 if self.axis == 'H' else 3]
        records = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        backend = self.backend if self.backend != 'auto' else choose_backend(x, self.axis, self.depthwise, records)

        with no_autocast(x):
            if records or self.training or _is_traced() or not self._prepared.may_keep(self):
                parts = self._resize(n, backend)
                if backend != 'direct':
                    y = circular_correlation(x, *parts, self.axis, backend)
            else:
                parts = self._prepared.get(self, (n, backend, x.dtype, x.device), lambda: self._prepare(n, backend, x.dtype))
                if backend != 'direct':
                    return correlate_prepared(x, *parts, self.axis, backend, out)
            if backend == 'direct':
                kernel, embedding = parts
                x = x if embedding is None else x + embedding.to(x.dtype)
                y = direct(x, kernel, self.bias, self.axis)
        if out is not None:
            out.copy_(y)
        return y

    def _resize(self, n: int, backend: str) -> Tuple[Tensor, Optional[Tensor]]:
        """Kernel (C, C or 1, n), and for the direct form the embedding, else what the kernel makes of embedding and bias, (C, n).

        The operator is linear: the embedding, the same on all lines, adds to each of them its own circular correlation.
        """
        kernel = resize(self.weight, self.axis, n).flatten(2)
        embedding = None if self.pos_embed is None else resize(self.pos_embed, self.axis, n)  # (1, C, n, 1) or (1, C, 1, n)
        if backend == 'direct':
            return kernel, embedding
        bias = None if self.bias is None else self.bias.to(kernel.dtype)
        if embedding is not None:
            return kernel, direct(embedding.to(kernel.dtype), kernel, bias, self.axis)[0].flatten(1)
        return kernel, None if bias is None else bias[:, None].expand(-1, n)

    def _prepare(self, n: int, backend: str, dtype: torch.dtype) -> Tuple[Tensor, Optional[Tensor]]:
        kernel, addend = self._resize(n, backend)
        addend = addend if addend is None else addend.to(dtype)
        return kernel.to(dtype) if backend == 'direct' else prepare(kernel, backend, dtype), addend


class ParCHW(nn.Module):
    """ParC along H on the first half of the channels, along W on the second, side by side (arXiv 2203.03952, section 3).

    Args:
        channels: C, even.
        base_size: size of kernels and position embeddings, K for both axes or (K_H, K_W).
        depthwise: see `ParC2d`.
        bias: see `ParC2d`.
        pos_embed: see `ParC2d`.
        backend: see `ParC2d`.

    Shape:
        (B, C, H, W) -> (B, C, H, W), in the memory format of the input.

    Raises:
        ValueError: ``channels`` is odd, or an argument of `ParC2d` is outside of what is allowed.
    """

    def __init__(self,
                 channels: int,
                 base_size: Union[int, Tuple[int, int]],
                 depthwise: bool = True,
                 bias: bool = True,
                 pos_embed: bool = True,
                 backend: str = 'auto') -> None:
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f'channels={channels} is not allowed; ParC along H and W splits them in two: choose an even number')
        sizes = tuple(base_size) if isinstance(base_size, (tuple, list)) else (base_size, base_size)
        if len(sizes) != 2:
            raise ValueError(f'base_size={base_size!r} is not allowed; give one integer, or one for H and one for W')
        self.h = ParC2d(channels // 2, 'H', sizes[0], depthwise, bias, pos_embed, backend)
        self.w = ParC2d(channels // 2, 'W', sizes[1], depthwise, bias, pos_embed, backend)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = x.chunk(2, 1)
        if torch.is_grad_enabled() or _is_traced() or _is_autocast(x):
            return torch.cat([self.h(x1), self.w(x2)], 1)
        out = torch.empty_like(x)
        self.h.write(x1, out[:, :x1.shape[1]])
        self.w.write(x2, out[:, x1.shape[1]:])
        return out


def resize(line: Tensor, axis: str, n: int) -> Tensor:
    """Kernel or position embedding at another size, as the authors resize them: bilinear, align_corners=True.

    Args:
        line: (.., .., K, 1) along H, (.., .., 1, K) along W; 4-D.
        axis: ``'H'`` or ``'W'``.
        n: new size.

    Returns:
        The same with n in the place of K; ``line`` itself if n is K. Half precision becomes float32.
    """
    is_open = isinstance(n, torch.SymInt)  # a graph for all sizes is being exported: no branch may depend on this one
    if not is_open and line.shape[2 if axis == 'H' else 3] == n:
        return line
    line = line.float() if line.dtype.itemsize < 4 else line
    return F.interpolate(line, (n, 1) if axis == 'H' else (1, n), mode='bilinear', align_corners=True)


class _Prepared:
    """Prepared kernels of one layer, a map size each, valid as long as its parameters are what they were."""

    def __init__(self) -> None:
        self.entries = {}
        self.seen = None

    def __deepcopy__(self, memo) -> '_Prepared':
        return _Prepared()

    def __reduce__(self):
        return _Prepared, ()

    @staticmethod
    def may_keep(layer: nn.Module) -> bool:
        # torch.func puts other tensors in the place of parameters; those made in inference mode count no versions
        return all(isinstance(p, nn.Parameter) and not p.is_inference() for p in _parameters(layer))

    def get(self, layer: nn.Module, key: tuple, make) -> tuple:
        parameters = _parameters(layer)
        if self.seen is None or not all(state.holds(p) for state, p in zip(self.seen, parameters)):
            self.entries.clear()
            self.seen = [_State.of(p) for p in parameters]
        if key not in self.entries:
            if len(self.entries) >= _MAX_SIZES:
                del self.entries[next(iter(self.entries))]
            self.entries[key] = make()
        return self.entries[key]


class _State(NamedTuple):
    """What a parameter was: by value on a CPU, where comparing is cheap; elsewhere, where it would wait for the device, by
    version and address. ``alias`` keeps the address from being used again."""
    version: int
    alias: Tensor
    values: Optional[Tensor]

    @classmethod
    def of(cls, p: Tensor) -> '_State':
        return cls(p._version, p.detach(), p.detach().clone() if p.device.type == 'cpu' else None)

    def holds(self, p: Tensor) -> bool:
        same = (self.version, self.alias.data_ptr(), self.alias.dtype) == (p._version, p.data_ptr(), p.dtype)
        return same and (self.values is None or torch.equal(self.values, p))


def _parameters(layer: nn.Module) -> list:
    return [p for p in (layer.weight, layer.bias, layer.pos_embed) if p is not None]


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _is_autocast(x: Tensor) -> bool:
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
