"""From the last map to the vector that a classifier takes."""
from typing import Optional, Tuple, Union

from mmengine.model import BaseModule
from torch import Tensor, nn

from hybrid_mm.backbones.norms import build_norm
from hybrid_mm.registry import MODELS


@MODELS.register_module()
class PooledVector(BaseModule):
    """Global average pooling, then a norm over the channels, then dropout: what released classifiers have before their
    linear layer, and MMPretrain's GlobalAveragePooling and LinearClsHead have not.

    Args:
        in_channels: channels C of the maps; needed for the norm alone.
        norm_cfg: norm over the pooled vector, see `build_norm`, such as ``dict(type='LN', eps=1e-6)`` in ConvNeXt; None for no
            norm.
        dropout: probability of dropping a value in training: 0.2 in TransCNN, HAT-Net, MobileNetV2 and ParC-Net.
        init_cfg: initialiser.

    Raises:
        ValueError: ``dropout`` is outside of [0, 1), or ``norm_cfg`` comes without ``in_channels``.

    Shape:
        A tuple of maps (B, C, H, W) -> a tuple of vectors (B, C); a single map -> a single vector.
    """

    def __init__(self,
                 in_channels: Optional[int] = None,
                 norm_cfg: Optional[dict] = None,
                 dropout: float = 0.,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        if not 0 <= dropout < 1:
            raise ValueError(f'dropout={dropout} is not allowed; choose from 0 to below 1')
        if norm_cfg is None:
            self.norm: nn.Module = nn.Identity()
        elif in_channels is None:
            raise ValueError(f'norm_cfg={norm_cfg} needs in_channels, the channels of the map, and in_channels is None')
        else:
            self.norm = build_norm(norm_cfg, in_channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Union[Tensor, Tuple[Tensor, ...]]) -> Union[Tensor, Tuple[Tensor, ...]]:
        if isinstance(maps, (tuple, list)):
            return tuple(self.forward(x) for x in maps)
        return self.dropout(self.norm(maps.mean((2, 3))))  # (B, C, H, W) -> (B, C)
