"""Between backbone and head."""
from .pooled_vector import PooledVector
from .token_pyramid import TokenPyramid

__all__ = ['PooledVector', 'TokenPyramid']
