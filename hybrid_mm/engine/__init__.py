"""What a Runner loads: layer decay, training in bfloat16 and hooks."""
from hybrid_mm.environment.libraries import require
from hybrid_mm.errors import SetupError

from .autocast import AutocastOptimWrapper
from .hooks import (
                    CheckpointHook,
                    CheckSetupHook,
                    CompileHook,
                    DataGuardHook,
                    HangGuardHook,
                    LoggerHook,
                    NumericsGuardHook,
                    PreemptionHook,
                    ProgressBarHook,
                    RandomStateHook,
                    ResumeScheduleHook,
                    ShowSomeHook,
                    VariableSizeHook,
                    WeightAverageHook,
)
from .layer_decay import LayerDecayOptimizerConstructor

__all__ = [
    'AutocastOptimWrapper', 'CheckSetupHook', 'CheckpointHook', 'CompileHook', 'DataGuardHook', 'HangGuardHook',
    'LayerDecayOptimizerConstructor', 'LoggerHook', 'NumericsGuardHook', 'PreemptionHook', 'ProgressBarHook',
    'RandomStateHook', 'ResumeScheduleHook', 'SetupError', 'ShowSomeHook', 'VariableSizeHook', 'WeightAverageHook', 'require'
]
