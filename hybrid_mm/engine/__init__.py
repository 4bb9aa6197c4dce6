"""What a Runner loads: layer decay and hooks."""
from hybrid_mm.environment.libraries import require
from hybrid_mm.errors import SetupError

from .hooks import (
                    CheckpointHook,
                    CheckSetupHook,
                    HangGuardHook,
                    LoggerHook,
                    ProgressBarHook,
                    RandomStateHook,
                    ResumeScheduleHook,
                    VariableSizeHook,
                    WeightAverageHook,
)
from .layer_decay import LayerDecayOptimizerConstructor

__all__ = [
    'CheckSetupHook', 'CheckpointHook', 'HangGuardHook', 'LayerDecayOptimizerConstructor', 'LoggerHook', 'ProgressBarHook',
    'RandomStateHook', 'ResumeScheduleHook', 'SetupError', 'VariableSizeHook', 'WeightAverageHook', 'require'
]
