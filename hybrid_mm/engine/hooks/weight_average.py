"""A moving average of the weights beside the training."""
from mmengine.hooks import EMAHook

from hybrid_mm.registry import HOOKS


@HOOKS.register_module()
class WeightAverageHook(EMAHook):
    """Keep a moving average of the weights beside the last ones, which stay what is tested and what a checkpoint is of.

    For recipes whose authors keep an average but report the accuracy of the last weights. mmengine's EMAHook tests the average
    and saves it as ``state_dict``, and the last weights as ``ema_state_dict``. Here ``state_dict`` holds the last weights and
    ``ema_state_dict`` the average, so that what reads a checkpoint gets the weights that were tested. ``--resume`` goes on with
    both.

    Args:
        kwargs: see mmengine's EMAHook, such as ``momentum`` (1 minus the decay) and ``update_buffers``.
    """

    # EMAHook exchanges the two sets of weights around validation and test, and in a checkpoint that is saved or resumed.

    def _swap_ema_parameters(self) -> None:
        pass

    def _swap_ema_state_dict(self, checkpoint: dict) -> None:
        pass
