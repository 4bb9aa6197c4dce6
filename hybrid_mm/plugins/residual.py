"""A layer of ours and its residual, as the hosts' plugin slots need it."""
from typing import Optional

from mmengine.model import BaseModule
from torch import Tensor, nn


class ResidualPlugin(BaseModule):
    """x + layer(x). The host replaces its map by the plugin's output, so the residual belongs inside.

    Args:
        layer: maps (B, C, H, W) to (B, C, H, W).
        init_cfg: initialiser.
    """

    def __init__(self, layer: nn.Module, init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x)
