"""Hooks of the stock runner."""
from .check_setup import CheckSetupHook
from .checkpoint import CheckpointHook
from .logger import LoggerHook
from .numerics_guard import NumericsGuardHook
from .progress_bar import ProgressBarHook
from .random_state import RandomStateHook
from .variable_size import VariableSizeHook
from .weight_average import WeightAverageHook

__all__ = [
    'CheckSetupHook', 'CheckpointHook', 'LoggerHook', 'NumericsGuardHook', 'ProgressBarHook', 'RandomStateHook',
    'VariableSizeHook', 'WeightAverageHook'
]
