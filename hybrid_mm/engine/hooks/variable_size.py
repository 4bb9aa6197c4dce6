"""Training on batches of changing image sizes."""
from typing import Any, Sequence

import numpy as np
import torch.nn.functional as F
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from hybrid_mm.registry import HOOKS


@HOOKS.register_module()
class VariableSizeHook(Hook):
    """Resize each training batch to a size drawn at random, the same on all GPUs.

    A stand-in for MobileViT's variable-size sampler, which crops each image to the drawn size in the first place and takes
    larger batches of smaller images. Here the pipeline crops to the largest size and the batch stays as it is, so that the
    iterations of an epoch are those of a plain sampler. The draw depends on the seed and the iteration alone: a resumed
    training sees the sizes of an uninterrupted one.

    Args:
        sizes: heights, equal to the widths, in pixels.

    Raises:
        ValueError: a size is below 1, or there is none; or, in training, the batch is not one tensor.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        if not sizes or min(sizes) < 1:
            raise ValueError(f'sizes={tuple(sizes)} is not allowed; give one or more sizes in pixels')
        self.sizes = tuple(sizes)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        images = data_batch['inputs']  # (B, C, H, W), whole numbers
        if not isinstance(images, Tensor):
            raise ValueError(f'VariableSizeHook needs a batch in one tensor, not a {type(images).__name__}; give '
                             "train_dataloader.collate_fn=dict(type='default_collate')")
        size = int(np.random.default_rng((runner.seed, runner.iter)).choice(self.sizes))
        if images.shape[2:] != (size, size):
            images = images.to(get_device(), non_blocking=True).float()
            data_batch['inputs'] = F.interpolate(images, (size, size), mode='bilinear', antialias=True)
