"""What a Runner loads: layer decay and hooks."""
from hybrid_mm.environment.libraries import require
from hybrid_mm.errors import SetupError

from .hooks import (
                    CheckpointHook,
                    CheckSetupHook,
                    DataGuardHook,
                    HangGuardHook,
                    LoggerHook,
                    NumericsGuardHook,
                    PreemptionHook,
                    ProgressBarHook,
                    RandomStateHook,
                    ResumeScheduleHook,
                    VariableSizeHook,
                    WeightAverageHook,
)
from .layer_decay import LayerDecayOptimizerConstructor

__all__ = [
    'CheckSetupHook', 'CheckpointHook', 'DataGuardHook', 'HangGuardHook', 'LayerDecayOptimizerConstructor', 'LoggerHook',
    'NumericsGuardHook', 'PreemptionHook', 'ProgressBarHook', 'RandomStateHook', 'ResumeScheduleHook', 'SetupError',
    'VariableSizeHook', 'WeightAverageHook', 'require'
]
