"""ParC (arXiv 2210.04020) as a plugin layer: ``plugins=[dict(cfg=dict(type='hybrid_mm.ParC', ...), ...)]``."""
from typing import Optional, Tuple, Union

from hybrid_mm.layers import ParCHW
from hybrid_mm.registry import MODELS

from .residual import ResidualPlugin


@MODELS.register_module('ParC')
class ParCPlugin(ResidualPlugin):
    """ParC along H and W with a residual, for mmdet's and mmseg's ResNet (Bottleneck).

    The host puts it into every block of the chosen stages, as an extra layer; ParC-ResNet50, which has it in the place of
    the 3x3 convolution of the last blocks, is the backbone `ParCResNet`. Stages whose maps differ in size need one entry
    each, with a ``postfix`` of its own: ``dict(cfg=dict(type='hybrid_mm.ParC', base_size=14, postfix='_14'), stages=(False,
    False, True, False), position='after_conv2')``.

    Args:
        in_channels: C, given by the host; even.
        base_size: K, or (K_H, K_W): the size of the map at the training resolution.
        depthwise: one kernel a channel; False: dense, as in ParC-ResNet50.
        bias: whether there is a bias.
        pos_embed: whether there is a position embedding.
        backend: of `hybrid_mm.layers.ParCHW`.
        init_cfg: initialiser; None: truncated normal weights of std 0.02, ParC's own.

    Shape:
        (B, C, H, W) -> (B, C, H, W).
    """

    _abbr_ = 'parc'

    def __init__(self,
                 in_channels: int,
                 base_size: Union[int, Tuple[int, int]],
                 depthwise: bool = True,
                 bias: bool = True,
                 pos_embed: bool = True,
                 backend: str = 'auto',
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(ParCHW(in_channels, base_size, depthwise, bias, pos_embed, backend), init_cfg)
