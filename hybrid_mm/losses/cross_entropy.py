"""Cross entropy with weights of classes for label maps that have unlabelled pixels."""
import math
from typing import Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hybrid_mm.errors import SetupError
from hybrid_mm.registry import MODELS


@MODELS.register_module()
class WeightedCrossEntropyLoss(nn.Module):
    """Cross entropy in which rare classes count more, for ``loss_decode`` of a head of MMSegmentation.

    It is the mean over labelled pixels, each with the weight of its class, as in PyTorch: ``sum(w * loss) / sum(w)``, so a factor
    common to all weights changes nothing. Where no pixel is labelled it is 0. MMSegmentation's own CrossEntropyLoss ends in an
    IndexError at the first unlabelled pixel once it has ``class_weight``, as it looks up the weight of label 255.

    Args:
        class_weight: a number above 0 for each class. One by the square root of the class's share of all pixels lifted CamVid's
            mIoU by a third, see docs/real_pictures.md.
        loss_weight: factor of the whole loss.
        loss_name: what the log calls it; it has to begin with ``loss_``.
    """

    class_weight: Tensor

    def __init__(self, class_weight: Sequence[float], loss_weight: float = 1.0, loss_name: str = 'loss_ce') -> None:
        super().__init__()
        if not class_weight or not all(math.isfinite(weight) and weight > 0 for weight in class_weight):
            raise SetupError(f'class_weight={class_weight} is not allowed; give a number above 0 for each class')
        self.register_buffer('class_weight', torch.tensor(class_weight, dtype=torch.float), persistent=False)
        self.loss_weight = loss_weight
        self.loss_name = loss_name

    def forward(self, seg_logit: Tensor, seg_label: Tensor, weight: Optional[Tensor] = None, ignore_index: int = 255) -> Tensor:
        """The loss of logits [N, C, H, W] and labels [N, H, W], with a ``weight`` of each pixel [N, H, W] from a sampler.

        Raises:
            SetupError: ``class_weight`` has not as many values as there are classes.
        """
        if len(self.class_weight) != seg_logit.shape[1]:
            raise SetupError(f'class_weight has {len(self.class_weight)} values, but the head has '
                             f'num_classes={seg_logit.shape[1]}; give one for each')
        weights = self.class_weight.to(seg_logit.dtype)
        loss = F.cross_entropy(seg_logit, seg_label, weights, ignore_index=ignore_index, reduction='none')
        if weight is not None:
            loss = loss * weight
        total = weights[seg_label[seg_label != ignore_index]].sum()
        return self.loss_weight * loss.sum() / total.clamp_min(torch.finfo(total.dtype).tiny)
