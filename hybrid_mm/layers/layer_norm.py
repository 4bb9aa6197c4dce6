"""LayerNorm for maps."""
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each position, with ``eps`` added to the variance (as ConvNeXt's, arXiv 2201.03545).

    Shape:
        (B, channels, H, W) -> (B, channels, H, W), channels_last.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # a view if x is channels_last
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
