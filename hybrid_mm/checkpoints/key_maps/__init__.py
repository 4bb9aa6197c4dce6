"""How the releases name their tensors and how our backbones do: one row of `KEY_MAPS` a family, one file a paper."""
from typing import Dict

from .glit import GLIT
from .parc import PARC_CONVNEXT, PARC_MOBILENET_V2, PARC_NET, PARC_RESNET
from .rules import KeyMap, Rules, rules
from .transcnn import HATNET, TRANSCNN

__all__ = ['KEY_MAPS', 'KeyMap', 'Rules', 'rules']

KEY_MAPS: Dict[str, KeyMap] = {
    'TransCNN': TRANSCNN,
    'HATNet': HATNET,
    'GLiT': GLIT,
    'ParCResNet': PARC_RESNET,
    'ParCMobileNetV2': PARC_MOBILENET_V2,
    'ParCConvNeXt': PARC_CONVNEXT,
    'ParCNet': PARC_NET,
}
