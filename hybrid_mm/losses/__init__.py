"""Losses for the heads of MMSegmentation, in torch alone."""
from .cross_entropy import WeightedCrossEntropyLoss

__all__ = ['WeightedCrossEntropyLoss']
