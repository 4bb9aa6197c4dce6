"""Around the stock runner: hooks, checks before a run, and what `tools/train.py` and `tools/test.py` share."""
from .check_setup_hook import CheckSetupHook
from .errors import SetupError
from .libraries import require
from .progress_bar_hook import ProgressBarHook
from .random_state_hook import RandomStateHook

__all__ = ['CheckSetupHook', 'ProgressBarHook', 'RandomStateHook', 'SetupError', 'require']
