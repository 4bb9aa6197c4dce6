"""How long a step of a training takes on this machine, before the training."""
import copy
import time
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from hybrid_mm.networks import build_model, quiet

from .hooks.random_state import get_state, set_state


def seconds_per_step(cfg: Any, steps: int = 3) -> float:
    """Time of a step with its pictures, of the model, the data and the optimizer of a config; the first one does not count.

    Random states stay as they are, and nothing is written.

    Args:
        cfg: of a training.
        steps: that count.
    """
    states = get_state()
    device = get_device()
    try:
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            torch.manual_seed(0)
            model: nn.Module = revert_sync_batchnorm(build_model(cfg)).to(device).train()
            with quiet():
                optim_wrapper = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
                batches = iter(Runner.build_dataloader(copy.deepcopy(cfg.train_dataloader), seed=0))
            start = 0.
            for step in range(steps + 1):
                if step == 1:
                    start = _now(device)
                model.train_step(next(batches), optim_wrapper)
            return (_now(device) - start) / steps
    finally:
        set_state(states)


def _now(device: str) -> float:
    if device == 'cuda':
        torch.cuda.synchronize()
    return time.perf_counter()
