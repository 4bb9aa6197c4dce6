"""Weights in files: the releases' key names as data, strict conversion and loading, ``hybrid_mm.Released``."""
from .conversion import convert
from .files import backbone_part, load_released, unwrap
from .fit import Mismatch
from .glit import glit_arch
from .identification import identify, identify_network
from .released import Released

__all__ = [
    'Mismatch', 'Released', 'backbone_part', 'convert', 'glit_arch', 'identify', 'identify_network', 'load_released', 'unwrap'
]
