"""Any backbone of the OpenMMLab libraries with ParC (arXiv 2210.04020) in the place of chosen layers."""
import logging
from typing import Any, Optional

from mmengine.logging import print_log
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor, nn

from hybrid_mm.layers.parc import Resolution, Select, replace_with_parc
from hybrid_mm.registry import MODELS


@MODELS.register_module('WithParC')
def with_parc(backbone: dict,
              select: Select,
              resolution: Resolution,
              init: str = 'random',
              backend: str = 'auto',
              extra_tokens: Optional[int] = None) -> nn.Module:
    """Build a backbone and put ParC in the place of chosen layers, as `hybrid_mm.layers.replace_with_parc`.

    It returns the backbone itself: its class, attributes and keys are the host's, so that its checkpoints load, and its
    ``init_cfg`` and ``init_weights`` do what they did; ``init_cfg=dict(type='Pretrained', ...)`` inside of ``backbone`` loads
    the host's weights, which also seed the new layers with ``init='from_kernel'``. What is replaced goes to mmengine's log.
    The maps that it returns are contiguous, whatever the host returns: mmcv's RoIAlign reads others wrongly without an error.

    Args:
        backbone: config of the host, such as ``dict(type='mmpretrain.ConvNeXt', arch='tiny', out_indices=(0, 1, 2, 3))``.
        select: which layers, see `replace_with_parc`.
        resolution: image size at which the new layers have their base size, or base sizes by name.
        init: ``'random'`` or ``'from_kernel'``.
        backend: of ParC.
        extra_tokens: class tokens in front of the map's tokens, see `replace_with_parc`.

    Returns:
        The host.

    Raises:
        ValueError: as `replace_with_parc`.
    """
    host = MMENGINE_MODELS.build(backbone)
    replaced = replace_with_parc(host, select, resolution, init, backend, extra_tokens)
    lines = ''.join(f'\n    {record}' for record in replaced)
    print_log(f'ParC replaces {len(replaced)} layers of {type(host).__name__}:{lines}', logger='current', level=logging.INFO)
    host.register_forward_hook(_contiguous_maps)
    return host


def _contiguous_maps(host: nn.Module, args: tuple, out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.contiguous()
    return type(out)(m.contiguous() if isinstance(m, Tensor) else m for m in out) if type(out) in (tuple, list) else out
