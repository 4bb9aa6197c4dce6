"""From the maps of a plain transformer, all of one stride, to a pyramid."""
from typing import Sequence, Tuple, Union

from mmengine.model import BaseModule
from torch import Tensor, nn

from hybrid_mm.backbones.norms import build_norm
from hybrid_mm.registry import MODELS


@MODELS.register_module()
class TokenPyramid(BaseModule):
    """Strides 4, 8, 16 and 32 from four maps of stride 16, in the order of depth; the channels stay as they are.

    .. code-block:: text

        map 1  ->  x4    deconvolution 2x2, norm, GELU, deconvolution 2x2
        map 2  ->  x2    deconvolution 2x2
        map 3  ->  x1
        map 4  ->  x1/2  max pool 2x2

    MMDetection and MMSegmentation build a list of necks one behind the other:
    ``neck=[dict(type='hybrid_mm.TokenPyramid', in_channels=192), dict(type='FPN', in_channels=[192] * 4, ...)]``.

    Args:
        in_channels: channels of the maps, one number or one for each of the four.
        norm_cfg: norm between the deconvolutions, see `build_norm`. By default LayerNorm, which does not depend on the batch.
        init_cfg: initialiser; by default PyTorch's start.

    Attributes:
        out_channels: channels of the four outputs.

    Raises:
        ValueError: ``in_channels`` has another length than 4 or a number below 1; in the forward pass, there are not four maps.

    Shape:
        Four maps (B, C_i, H, W) -> (B, C_1, 4H, 4W), (B, C_2, 2H, 2W), (B, C_3, H, W), (B, C_4, ceil(H/2), ceil(W/2)),
        contiguous.
    """

    def __init__(self,
                 in_channels: Union[int, Sequence[int]],
                 norm_cfg: dict = dict(type='hybrid_mm.LN2d', eps=1e-6),
                 init_cfg: Union[dict, list, None] = None) -> None:
        super().__init__(init_cfg)
        channels = (in_channels, ) * 4 if isinstance(in_channels, int) else tuple(in_channels)
        if len(channels) != 4 or min(channels) < 1:
            raise ValueError(f'in_channels={in_channels} is not allowed; give one number of channels, or one for each of '
                             'four maps')
        self.in_channels = self.out_channels = channels
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(channels[0], channels[0], 2, stride=2), build_norm(norm_cfg, channels[0]), nn.GELU(),
            nn.ConvTranspose2d(channels[0], channels[0], 2, stride=2))
        self.up2 = nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2)
        self.keep = nn.Identity()
        self.down2 = nn.MaxPool2d(2, stride=2, ceil_mode=True)  # stride 32 rounds up, as that of all backbones

    def forward(self, maps: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        if len(maps) != 4:
            raise ValueError(f'TokenPyramid got {len(maps)} maps; give it 4, such as those of out_indices=(0, 1, 2, 3)')
        levels = self.up4, self.up2, self.keep, self.down2
        # mmcv's RoIAlign reads a channels_last map as if it were contiguous
        return tuple(level(x).contiguous() for level, x in zip(levels, maps))
