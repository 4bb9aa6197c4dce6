"""ParC as torch modules: along one axis, and along both side by side."""
from typing import Optional, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..tracing import is_symbolic, needs_plain
from .correlation import circular_correlation, correlate_prepared, direct, no_autocast, prepare
from .crossovers import choose_backend
from .kept import KeptKernels
from .lines import dim_of

_BACKENDS = ('auto', 'direct', 'fft', 'gemm')


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
            - ``'auto'``: on a CPU the fastest by measurement, elsewhere by a guess, see
              `hybrid_mm.layers.parc.crossovers.choose_backend`.

    Shape:
        (B, C, H, W) -> (B, C, H, W), in the memory format of the input.

    Raises:
        ValueError: an argument is outside of what is allowed.

    Note:
        In evaluation without gradients, what depends on the weights alone is computed once a map size and kept. ``train()``,
        ``eval()`` and loading a state dict drop it; so does a forward pass that records, after which nothing is kept until
        one of them is called. Nor is anything kept while a parameter has a ``.grad``, and a change of a parameter that
        raises its version, or moves it, is seen. After another one, such as writing through ``.data``, call ``eval()``.
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
        self._kept = KeptKernels()
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
        self._kept.restart()
        return super().train(mode)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._kept.restart()

    def extra_repr(self) -> str:
        return (f'{self.channels}, axis={self.axis!r}, base_size={self.base_size}, depthwise={self.depthwise}, '
                f'bias={self.bias is not None}, pos_embed={self.pos_embed is not None}, backend={self.backend!r}')

    def _run(self, x: Tensor, out: Optional[Tensor]) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ValueError(f'the input has the shape {tuple(x.shape)}; it needs (B, {self.channels}, H, W)')
        if _is_autocast(x):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        n = x.shape[dim_of(self.axis)]
        records = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        backend = self.backend if self.backend != 'auto' else choose_backend(x, self.axis, self.depthwise, records)

        # in training nothing is kept, and `eval` begins anew; no optimizer follows an export
        if records and not self.training and not torch.compiler.is_exporting():
            self._kept.suspend()
        with no_autocast(x):
            if records or needs_plain():
                kernel, addend = self._resize(n, backend)
                if backend != 'direct':
                    y = circular_correlation(x, kernel, addend, self.axis, backend)
            else:
                kernel, addend = self._prepared(n, backend, x)
                if backend != 'direct':
                    return correlate_prepared(x, kernel, addend, self.axis, backend, out)
            if backend == 'direct':
                x = x if addend is None else x + addend.to(x.dtype)
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

    def _prepared(self, n: int, backend: str, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        """`_resize` in the form that the backend computes with, kept in evaluation."""

        def make() -> Tuple[Tensor, Optional[Tensor]]:
            kernel, addend = self._resize(n, backend)
            if backend == 'direct':
                return kernel.to(x.dtype), addend if addend is None else addend.to(x.dtype)
            return prepare(kernel, addend, self.depthwise, backend, x.dtype)

        if self.training:
            return make()
        parameters = [p for p in (self.weight, self.bias, self.pos_embed) if p is not None]
        return self._kept.get(parameters, (n, backend, x.dtype, x.device), make)


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
        if torch.is_grad_enabled() or needs_plain() or _is_autocast(x):
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
    if not is_symbolic(n) and line.shape[dim_of(axis)] == n:
        return line
    line = line.float() if line.dtype.itemsize < 4 else line
    return F.interpolate(line, (n, 1) if axis == 'H' else (1, n), mode='bilinear', align_corners=True)


def _is_autocast(x: Tensor) -> bool:
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)
