"""Norm layers from ``norm_cfg``, the dict of OpenMMLab's configs, without mmcv."""
from contextlib import suppress
from typing import Any, Dict, Optional, Type

from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from hybrid_mm.layers import LayerNorm2d
from hybrid_mm.registry import MODELS

MODELS.register_module('LN2d', module=LayerNorm2d)

# the names under which mmcv, where it is imported, registers the same classes
_NORMS: Dict[str, Type[nn.Module]] = dict(
    BN=nn.BatchNorm2d, BN1d=nn.BatchNorm1d, BN2d=nn.BatchNorm2d, BN3d=nn.BatchNorm3d, SyncBN=nn.SyncBatchNorm, GN=nn.GroupNorm,
    LN=nn.LayerNorm, IN=nn.InstanceNorm2d, IN1d=nn.InstanceNorm1d, IN2d=nn.InstanceNorm2d, IN3d=nn.InstanceNorm3d)


def build_norm(norm_cfg: Dict[str, Any], channels: int) -> nn.Module:
    """A norm layer, as mmcv's ``build_norm_layer`` builds it.

    Args:
        norm_cfg: a dict with ``type``: BN, SyncBN, GN, LN, IN, another name that a registry knows, such as
            ``'hybrid_mm.LN2d'``, or a class; ``requires_grad`` of the parameters, by default True; and the arguments of the
            class, among them ``eps``, by default 1e-5.
        channels: C.

    Raises:
        ValueError: ``norm_cfg`` is no such dict, or nobody knows its type.
    """
    if not isinstance(norm_cfg, dict) or 'type' not in norm_cfg:
        raise ValueError(f"norm_cfg={norm_cfg!r} is not allowed; give a dict with type, such as dict(type='BN')")
    settings = {'eps': 1e-5, **norm_cfg}
    kind, requires_grad = settings.pop('type'), settings.pop('requires_grad', True)
    if isinstance(kind, str):
        kind = _look_up(kind)
    if kind is None:
        raise ValueError(f'norm_cfg={norm_cfg!r} is not allowed: no registry knows the type; choose from {", ".join(_NORMS)}, '
                         'hybrid_mm.LN2d, or what an installed library registers')
    norm = kind(num_channels=channels, **settings) if kind is nn.GroupNorm else kind(channels, **settings)
    return norm.requires_grad_(requires_grad)


def _look_up(name: str) -> Optional[Type[nn.Module]]:
    with MMENGINE_MODELS.switch_scope_and_registry(None) as registry:  # that of the default scope
        kind = registry.get(name) or _NORMS.get(name)
        if kind is None:
            with suppress(ImportError):
                import mmcv.ops  # noqa: F401  registers norms of its own, such as MMSyncBN
            kind = registry.get(name)
    return kind
