"""H-MHSA (arXiv 2106.03180) as a plugin layer: ``plugins=[dict(cfg=dict(type='hybrid_mm.HMHSA'), ...)]``."""
from functools import partial
from typing import Optional

from torch import nn

from hybrid_mm.backbones.norms import build_norm
from hybrid_mm.layers import HMHSA, IterativeHMHSA
from hybrid_mm.registry import MODELS

from .residual import ResidualPlugin


class _HMHSAPlugin(ResidualPlugin):
    """The host may be trained already: small weights (truncated normal of std 0.02) keep the first steps near its output."""

    def __init__(self, layer: nn.Module, init_cfg: Optional[dict] = None) -> None:
        super().__init__(layer, init_cfg or dict(type='TruncNormal', layer='Conv2d', std=0.02, bias=0.))


@MODELS.register_module('HMHSA')
class HMHSAPlugin(_HMHSAPlugin):
    """Two-step H-MHSA with a residual, for mmdet's and mmseg's ResNet (Bottleneck).

    Args:
        in_channels: C, given by the host; a multiple of ``head_dim``.
        norm_cfg: norm layer.
        init_cfg: initialiser.
        kwargs: ``head_dim``, ``grid_size`` and ``pool_ratio`` of `hybrid_mm.layers.HMHSA`.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    _abbr_ = 'h_mhsa'

    def __init__(self, in_channels: int, norm_cfg: dict = dict(type='BN'), init_cfg=None, **kwargs) -> None:
        super().__init__(HMHSA(in_channels, norm_layer=partial(build_norm, norm_cfg), **kwargs), init_cfg)


@MODELS.register_module('IterativeHMHSA')
class IterativeHMHSAPlugin(_HMHSAPlugin):
    """Iterative H-MHSA with a residual, for mmdet's and mmseg's ResNet (Bottleneck).

    Args:
        in_channels: C, given by the host; a multiple of ``head_dim``.
        norm_cfg: norm layer.
        init_cfg: initialiser.
        kwargs: ``head_dim``, ``grid_sizes`` and ``share_qkv`` of `hybrid_mm.layers.IterativeHMHSA`.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    _abbr_ = 'iterative_h_mhsa'

    def __init__(self, in_channels: int, norm_cfg: dict = dict(type='BN'), init_cfg=None, **kwargs) -> None:
        super().__init__(IterativeHMHSA(in_channels, norm_layer=partial(build_norm, norm_cfg), **kwargs), init_cfg)
