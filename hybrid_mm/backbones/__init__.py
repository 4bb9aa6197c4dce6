"""The papers' networks as OpenMMLab backbones, registered under the scope ``hybrid_mm``."""
from .glit import GLiT
from .hatnet import HATNet
from .parc_convnext import ParCConvNeXt
from .parc_mobilenet_v2 import ParCMobileNetV2
from .parc_net import ParCNet
from .parc_resnet import ParCResNet
from .setformer import SeTformer
from .transcnn import TransCNN
from .with_parc import with_parc

__all__ = [
    'GLiT', 'HATNet', 'ParCConvNeXt', 'ParCMobileNetV2', 'ParCNet', 'ParCResNet', 'SeTformer', 'TransCNN', 'with_parc'
]
