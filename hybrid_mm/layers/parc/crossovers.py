"""Which backend of ParC ``'auto'`` stands for: on a CPU the fastest by measurement, elsewhere by a guess."""
from typing import Dict, Tuple

import torch
from torch import Tensor

from .lines import dim_of, is_channels_last

Ranges = Tuple[Tuple[str, float], ...]
_ALWAYS = float('inf')

# backend, and the length of the axis from which the next one is faster
_CPU: Dict[Tuple[bool, bool, str], Ranges] = {
    # gradients recorded, channels_last, axis
    (False, False, 'H'): (('gemm', 256), ('fft', _ALWAYS)),
    (False, False, 'W'): (('gemm', 96), ('fft', _ALWAYS)),
    (False, True, 'H'): (('direct', 100), ('fft', _ALWAYS)),
    (False, True, 'W'): (('direct', 160), ('fft', _ALWAYS)),
    (True, False, 'H'): (('direct', 48), ('gemm', 160), ('fft', _ALWAYS)),
    (True, False, 'W'): (('direct', 18), ('fft', _ALWAYS)),
    (True, True, 'H'): (('direct', 100), ('fft', _ALWAYS)),
    (True, True, 'W'): (('direct', 22), ('fft', _ALWAYS)),
}
_CPU_DENSE: Dict[bool, Ranges] = {
    False: (('direct', 8), ('fft', _ALWAYS)),
    True: (('direct', 18), ('fft', _ALWAYS)),  # gradients recorded
}
_CPU_DOUBLE: Dict[bool, Ranges] = {  # torch has no fast convolution in float64 here
    False: (('gemm', 96), ('fft', _ALWAYS)),
    True: (('fft', _ALWAYS), ),  # gradients recorded
}
# a guess: nothing has been measured on a GPU
_ELSEWHERE: Dict[bool, Ranges] = {
    True: (('direct', 16), ('gemm', 64), ('fft', _ALWAYS)),  # depthwise
    False: (('direct', 16), ('fft', _ALWAYS)),
}


def choose_backend(x: Tensor, axis: str, depthwise: bool, records: bool) -> str:
    """The backend that ``'auto'`` stands for.

    On a CPU it is the fastest for this map in a loop over single layers, measured on two cores with AVX-512 by
    ``benchmarks/parc.py``, 64 channels depthwise or 128 dense; the tables of this file have the lengths of the axis at which one
    backend passes another. More channels or images make all backends slower alike; float16 and bfloat16 follow float32. On other
    devices, GPUs among them, nothing has been measured, and the numbers are a guess. An export always takes ``'direct'``.

    Args:
        x: (B, C, H, W).
        axis: ``'H'`` or ``'W'``.
        depthwise: one kernel a channel, or one for each pair of channels.
        records: a backward pass will follow.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():
        return 'direct'
    n = x.shape[dim_of(axis)]
    if x.device.type != 'cpu':
        ranges = _ELSEWHERE[depthwise]
    elif not depthwise:
        ranges = _CPU_DENSE[records]
    elif x.dtype == torch.float64:
        ranges = _CPU_DOUBLE[records]
    else:
        ranges = _CPU[records, is_channels_last(x), axis]
    return next(backend for backend, end in ranges if n < end)
