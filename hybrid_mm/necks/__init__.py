"""Between backbone and head."""
from .pooled_vector import PooledVector

__all__ = ['PooledVector']
