"""The authors' released weights: key names as data, strict conversion, and the initialiser ``hybrid_mm.Released``."""
from .conversion import convert
from .files import load_released, unwrap
from .identification import identify
from .released import Released

__all__ = ['Released', 'convert', 'identify', 'load_released', 'unwrap']
