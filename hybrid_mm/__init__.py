"""hybrid_mm: backbones that join convolution and global token mixing, for OpenMMLab.

Importing the package loads neither torch nor any OpenMMLab library: `hybrid_mm.layers` serves bare PyTorch, and mmengine
imports `hybrid_mm.registry` by itself when a config names a `hybrid_mm.` type.
"""
from .paths import config_path
from .version import __version__

__all__ = ['__version__', 'config_path']
