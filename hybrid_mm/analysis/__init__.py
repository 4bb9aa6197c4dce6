"""Tools that look into a network."""
from .effective_receptive_field import ReceptiveField, area, effective_receptive_field, square_side

__all__ = ['ReceptiveField', 'area', 'effective_receptive_field', 'square_side']
