"""The part of a detector, segmentor or classifier that can leave Python: a function from images to tensors."""
from contextlib import suppress
from typing import Any, Optional, Tuple

import torch.nn.functional as F
from torch import Tensor, nn

from hybrid_mm.checkpoints import load_released
from hybrid_mm.checkpoints.fit import load_fitting
from hybrid_mm.errors import SetupError
from hybrid_mm.networks import build_model

from .optimise import without_norms

PARTS = ('backbone', 'neck', 'logits')
NO_BOXES = "mmcv's non-maximum suppression and RoIAlign have no counterpart in ONNX"


class Network(nn.Module):
    """A model up to one of its parts, in evaluation mode and without gradients.

    Args:
        model: a detector, segmentor or classifier of MMDetection, MMSegmentation or MMPreTrain.
        part: ``'backbone'``; ``'neck'``, backbone and neck; ``'logits'``, the heads too: of a classifier (B, classes), of a
            segmentor (B, classes, H, W), resized to the image.

    Shape:
        (B, C, H, W) -> a tuple of tensors. The image is as the model's data preprocessor gives it, normalised.

    Raises:
        SetupError: the model has no such part, or it cannot be exported.
    """

    def __init__(self, model: nn.Module, part: str) -> None:
        super().__init__()
        if part not in allowed_parts(model):
            no_boxes = f'{NO_BOXES}, so that the boxes of a detector cannot be exported'
            reason = no_boxes if part == 'logits' else f'{type(model).__name__} has none'
            raise SetupError(f'--part {part} is not allowed: {reason}; choose from {", ".join(allowed_parts(model))}')
        self.model = model.eval().requires_grad_(False)
        self.part = part

    def forward(self, image: Tensor) -> Tuple[Tensor, ...]:
        if self.part == 'backbone':
            outputs = self.model.backbone(image)
        elif self.part == 'neck':
            outputs = self.model.extract_feat(image)
        else:
            outputs = self.model(image, mode='tensor')
            if outputs.ndim == 4:
                outputs = F.interpolate(outputs, image.shape[2:], mode='bilinear', align_corners=self.model.align_corners)
        return (outputs, ) if isinstance(outputs, Tensor) else tuple(outputs)

    def describe(self) -> str:
        return dict(backbone='the backbone', neck='backbone and neck', logits='the network up to its logits')[self.part]


def build_network(cfg: Any, part: Optional[str] = None, checkpoint: Optional[str] = None) -> Network:
    """The network of a config up to a part, with BatchNorm as part of its convolutions where that is exact.

    Args:
        cfg: config of a detector, segmentor or classifier, with ``default_scope`` and ``model``.
        part: see `Network`; by default the last that can be exported.
        checkpoint: weights of the whole model, as a training writes them; None for random ones.

    Raises:
        SetupError: see `Network`, or the checkpoint is of another model.
    """
    model = build_model(cfg)
    if checkpoint is not None:
        load_fitting(model, load_released(checkpoint), checkpoint, spare_heads=True)
    with suppress(SetupError):  # one that takes pictures of another size alone
        model = without_norms(model)[0]
    return Network(model, part or allowed_parts(model)[-1])


def allowed_parts(model: nn.Module) -> Tuple[str, ...]:
    """Those of `PARTS` that a model has and that can be exported."""
    has_logits = getattr(model, 'with_decode_head', False) or hasattr(model, 'head') and model.with_head
    return tuple(part for part, is_there in zip(PARTS, (True, getattr(model, 'with_neck', False), has_logits)) if is_there)
