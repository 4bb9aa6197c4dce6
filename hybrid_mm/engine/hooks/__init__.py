"""Hooks of the stock runner."""
from .check_setup import CheckSetupHook
from .checkpoint import CheckpointHook
from .hang_guard import HangGuardHook
from .logger import LoggerHook
from .progress_bar import ProgressBarHook
from .random_state import RandomStateHook
from .resume_schedule import ResumeScheduleHook
from .variable_size import VariableSizeHook
from .weight_average import WeightAverageHook

__all__ = [
    'CheckSetupHook', 'CheckpointHook', 'HangGuardHook', 'LoggerHook', 'ProgressBarHook', 'RandomStateHook',
    'ResumeScheduleHook', 'VariableSizeHook', 'WeightAverageHook'
]
