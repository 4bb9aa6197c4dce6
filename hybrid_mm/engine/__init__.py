"""What a Runner loads: layer decay and hooks."""
from hybrid_mm.environment.libraries import require
from hybrid_mm.errors import SetupError

from .hooks import (
                    CheckpointHook,
                    CheckSetupHook,
                    LoggerHook,
                    NumericsGuardHook,
                    ProgressBarHook,
                    RandomStateHook,
                    VariableSizeHook,
                    WeightAverageHook,
)
from .layer_decay import LayerDecayOptimizerConstructor

__all__ = [
    'CheckSetupHook', 'CheckpointHook', 'LayerDecayOptimizerConstructor', 'LoggerHook', 'NumericsGuardHook',
    'ProgressBarHook', 'RandomStateHook', 'SetupError', 'VariableSizeHook', 'WeightAverageHook', 'require'
]
