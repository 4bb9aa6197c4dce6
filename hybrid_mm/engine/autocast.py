"""Training in bfloat16 where MMEngine's mixed precision does not run: on a CPU."""
from contextlib import contextmanager
from typing import Any, Iterator, Tuple

import torch
from mmengine.device import get_device
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from hybrid_mm.errors import SetupError
from hybrid_mm.registry import OPTIM_WRAPPERS

_DTYPES = {'bfloat16': torch.bfloat16, 'float32': torch.float32}


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """OptimWrapper that computes the forward pass under ``torch.autocast``, without scaling the loss.

    For bfloat16, whose range is that of float32, so gradients need no scale; MMEngine's AmpOptimWrapper refuses to run on a CPU.
    Weights, gradients and the optimizer's state stay in float32. What the heads predict is turned to float32, and detectors cut
    regions out of maps in float32: MMCV has no operators for bfloat16 on a CPU, and neither boxes nor losses bear its 8 bits.

    Args:
        dtype: ``'bfloat16'``, or ``'float32'`` for no change.
        **kwargs: as of OptimWrapper.
    """

    def __init__(self, dtype: str = 'bfloat16', **kwargs: Any) -> None:
        if dtype not in _DTYPES:
            raise SetupError(f'dtype={dtype!r} of AutocastOptimWrapper is not allowed; choose from {", ".join(_DTYPES)}')
        super().__init__(**kwargs)
        self.cast_dtype = _DTYPES[dtype]

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """The forward pass of a step: autocast, and the accumulation of gradients as OptimWrapper has it."""
        device = get_device()
        enabled = self.cast_dtype != torch.float32
        if enabled:
            keep_predictions_exact(model)
        with super().optim_context(model), torch.autocast(device, dtype=self.cast_dtype if enabled else None, enabled=enabled):
            yield


def keep_predictions_exact(model: nn.Module) -> None:
    """Let heads give float32, and extractors of regions take it, while autocast is on; a second call changes nothing.

    Heads are the modules whose class ends in ``Head``, and the classifiers ``conv_seg`` of MMSegmentation, whose heads call their
    own ``forward`` past all hooks; extractors are those whose class ends in ``RoIExtractor``.
    """
    if getattr(model, '_predictions_exact', False):
        return
    model._predictions_exact = True
    for name, module in model.named_modules():
        kind = type(module).__name__
        if kind.endswith('RoIExtractor'):
            module.register_forward_pre_hook(_exact_inputs)
        elif kind.endswith('Head') or name.rpartition('.')[2] == 'conv_seg':
            module.register_forward_hook(_exact_outputs)


def _exact_inputs(module: nn.Module, inputs: Tuple[Any, ...]) -> Any:
    return _to_float(inputs)


def _exact_outputs(module: nn.Module, inputs: Tuple[Any, ...], outputs: Any) -> Any:
    return _to_float(outputs)


def _to_float(value: Any) -> Any:
    """Half precision in nested lists, tuples and dicts to float32."""
    half = torch.bfloat16, torch.float16
    return tree_map(lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in half else leaf, value)
