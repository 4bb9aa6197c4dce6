"""Around the stock runner: hooks, layer decay, checks before a run, and what `tools/train.py` and `tools/test.py` share."""
from .check_setup_hook import CheckSetupHook
from .checkpoint_hook import CheckpointHook
from hybrid_mm.errors import SetupError
from .layer_decay import LayerDecayOptimizerConstructor
from .libraries import require
from .logger_hook import LoggerHook
from .progress_bar_hook import ProgressBarHook
from .random_state_hook import RandomStateHook
from .variable_size_hook import VariableSizeHook
from .weight_average_hook import WeightAverageHook

__all__ = [
    'CheckSetupHook', 'CheckpointHook', 'LayerDecayOptimizerConstructor', 'LoggerHook', 'ProgressBarHook', 'RandomStateHook',
    'SetupError', 'VariableSizeHook', 'WeightAverageHook', 'require'
]
