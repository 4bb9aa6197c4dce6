"""The papers' networks as OpenMMLab backbones, registered under the scope ``hybrid_mm``."""
from .hatnet import HATNet
from .transcnn import TransCNN

__all__ = ['HATNet', 'TransCNN']
