"""Formulae of multiply-accumulates, a table of PyTorch's operators. This file needs torch alone.

Convolutions and matrix products are counted by the formulae of PyTorch's own counter, `torch.utils.flop_counter`; here is what
it lacks. Norms, resizing and pooling weigh what they weigh in mmengine's counter, which the published costs of detectors and
segmentors contain.
"""
import math
from typing import Callable, Dict, Sequence, Tuple

import torch
from torch import Tensor

aten = torch.ops.aten

# operator -> places of its two factors among the arguments
PRODUCTS = {
    aten.convolution: (0, 1), aten.mm: (0, 1), aten.bmm: (0, 1), aten.mv: (0, 1), aten.dot: (0, 1),
    aten.addmm: (1, 2), aten.baddbmm: (1, 2),
}  # yapf: disable
# operators that move numbers, or make them from none, and so have nothing to count
MOVES = {
    '_to_copy', '_unsafe_view', '_reshape_copy', 'alias', 'arange', 'cat', 'clone', 'contiguous', 'constant_pad_nd', 'copy_',
    'detach', 'empty', 'empty_like', 'empty_permuted', 'empty_strided', 'expand', 'fill_', 'flatten', 'flip', 'full',
    'full_like', 'index', 'index_select', 'lift_fresh', 'linspace', 'masked_fill', 'new_empty', 'new_empty_strided',
    'new_full', 'new_ones', 'new_zeros', 'ones', 'ones_like', 'pad', 'permute', 'pixel_unshuffle', 'reshape', 'resolve_conj',
    'roll', 'scalar_tensor', 'stack', 'to', 'unflatten', 'where', 'zero_', 'zeros', 'zeros_like'
}  # yapf: disable


def _attention(out: Tensor, query: Tensor, key: Tensor, value: Tensor, *args, **kwargs) -> int:
    """The two products; a mask saves nothing."""
    return math.prod(query.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _norm(weight_place: int) -> Callable:

    def formula(out, *args, **kwargs) -> int:
        x = args[0]
        weight = args[weight_place] if len(args) > weight_place else kwargs.get('weight')
        return x.numel() * (4 if weight is None else 5)

    return formula


def _batch_norm(out: Tensor, x: Tensor, weight, bias, mean, var, training: bool, *args) -> int:
    if training:
        return _norm(1)(out, x, weight)
    return x.numel() * (1 if weight is None else 2)


def _real_transform(line: Tensor, dims: Sequence[int]) -> float:
    """A transform of n real numbers has about 5/2 n log2 n operations, so 5/4 n log2 n multiply-accumulates."""
    return 1.25 * line.numel() * math.log2(max(math.prod(line.shape[dim] for dim in dims), 1))


# operator -> kind of work, and the formula: (result, arguments of the operator) -> multiply-accumulates
FORMULAE: Dict[object, Tuple[str, Callable]] = {
    aten.scaled_dot_product_attention: ('attention', _attention),
    aten.batch_norm: ('norm', _batch_norm),
    aten.layer_norm: ('norm', _norm(2)),
    aten.group_norm: ('norm', _norm(2)),
    aten.instance_norm: ('norm', _norm(1)),
    aten.upsample_nearest2d: ('resize', lambda out, *args, **kwargs: out.numel()),
    aten.upsample_bilinear2d: ('resize', lambda out, *args, **kwargs: 4 * out.numel()),
    aten.grid_sampler: ('resize', lambda out, *args, **kwargs: 4 * out.numel()),
    aten.adaptive_avg_pool2d: ('pool', lambda out, x, *args, **kwargs: x.numel()),
    aten._fft_r2c: ('FFT', lambda out, x, dims, *args, **kwargs: _real_transform(x, dims)),
    aten._fft_c2r: ('FFT', lambda out, x, dims, *args, **kwargs: _real_transform(out, dims)),
    aten._fft_c2c: ('FFT', lambda out, x, dims, *args, **kwargs: 2 * _real_transform(x, dims)),
    # four multiplications and two additions
    aten.mul: ('FFT', lambda out, *args, **kwargs: 3 * out.numel() if out.is_complex() else 0),
    aten.mul_: ('FFT', lambda out, *args, **kwargs: 3 * out.numel() if out.is_complex() else 0),
}  # yapf: disable
