"""Hooks of the stock runner."""
from .check_setup import CheckSetupHook
from .checkpoint import CheckpointHook
from .compile import CompileHook
from .data_guard import DataGuardHook
from .hang_guard import HangGuardHook
from .logger import LoggerHook
from .numerics_guard import NumericsGuardHook
from .preemption import PreemptionHook
from .progress_bar import ProgressBarHook
from .random_state import RandomStateHook
from .resume_schedule import ResumeScheduleHook
from .show_some import ShowSomeHook
from .variable_size import VariableSizeHook
from .weight_average import WeightAverageHook

__all__ = [
    'CheckSetupHook', 'CheckpointHook', 'CompileHook', 'DataGuardHook', 'HangGuardHook', 'LoggerHook', 'NumericsGuardHook',
    'PreemptionHook', 'ProgressBarHook', 'RandomStateHook', 'ResumeScheduleHook', 'ShowSomeHook', 'VariableSizeHook',
    'WeightAverageHook'
]
