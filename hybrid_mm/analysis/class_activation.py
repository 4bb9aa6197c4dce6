"""Class activation maps of detectors, segmentors and classifiers, on the library grad-cam.

What is explained, the target whose gradient is taken:

============== =====================================================================================================
classification the logit of a class, by default the one with the highest
segmentation   the mean logit of a class over the pixels where it wins, by default the class that wins most pixels
detection      the sum of the scores of the boxes of a class, by default of all boxes, with at least a least score
============== =====================================================================================================

The methods differ in how they weigh the features. Grad-CAM weighs a channel with the mean of its gradient over the map, which
suits a classifier with global pooling; a detector's gradient is large at its boxes alone, and the mean forgets where. HiResCAM
(Draelos and Carin, arXiv 2011.08891) takes the product at each place, and is the default for detectors and segmentors.

The network gets pictures as the stock Inferencers prepare them, see `hybrid_mm.inference.predictors`; a segmentor takes the
whole picture at once.
"""
import sys
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Iterator, List, NamedTuple, Optional, Sequence, Tuple
from unittest import mock

import cv2
import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from hybrid_mm.compat import mend_torchvision
from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.inference.predictors import Predictor

from .browse import to_picture
from .cam_layers import Tap, as_map, find_place

_CLASSES = {  # method -> class in grad-cam; those that need one forward pass and no more than one backward pass
    'gradcam': 'GradCAM',
    'gradcam++': 'GradCAMPlusPlus',
    'xgradcam': 'XGradCAM',
    'hirescam': 'HiResCAM',
    'layercam': 'LayerCAM',
    'eigengradcam': 'EigenGradCAM',
    'eigencam': 'EigenCAM',
}
METHODS = tuple(_CLASSES)
DEFAULTS = dict(classification='gradcam', segmentation='hirescam', detection='hirescam')  # task -> method
CLASS_FREE = ('eigencam', )  # methods that look at the features alone
_WHITE = (255, 255, 255)


class ActivationMap(NamedTuple):
    """What `Explainer.explain` returns.

    Attributes:
        heat: float32 (H, W), 0 to 1; 0 everywhere if nothing in the features speaks for the target.
        picture: uint8 (H, W, 3), BGR, as the network gets it.
        label: index of the class, None for all classes or a method without one.
        target: value of the target, None for a method without one.
        boxes: (N, 4), x1, y1, x2, y2 in pixels: of a detector those in the target, otherwise none.
        region: bool (H, W): of a segmentor the pixels in the target, otherwise None.
    """
    heat: np.ndarray
    picture: np.ndarray
    label: Optional[int]
    target: Optional[float]
    boxes: np.ndarray
    region: Optional[np.ndarray]

    def draw(self) -> np.ndarray:
        """The picture under the heat, what the target is about outlined in white; uint8 (H, W, 3), BGR."""
        from pytorch_grad_cam.utils.image import show_cam_on_image
        drawn = show_cam_on_image(np.float32(self.picture) / 255, self.heat)
        for x1, y1, x2, y2 in self.boxes.round().astype(int).tolist():
            cv2.rectangle(drawn, (x1, y1), (x2, y2), _WHITE)
        if self.region is not None:
            outlines, _ = cv2.findContours(self.region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(drawn, outlines, -1, _WHITE)
        return drawn


class NothingFound(Exception):
    """There is no box, or no pixel, that a target could be made of."""


class Explainer:
    """Class activation maps of a network.

    Args:
        predictor: the network; its parameters are frozen.
        layer: dotted name of the layer whose features are looked at.
        stage: the same, of the backbone, see `cam_layers.find_place`, which says the default.
        method: one of `METHODS`; by default that of `DEFAULTS`.
        score_thr: of a detector, least score of a box.
        loads_rgb: whether the pipeline gives pictures in RGB, as ``rgb_to_bgr`` of the data preprocessor says.

    Attributes:
        place: name of the layer.
        method: how the features are weighed.

    Raises:
        SetupError: there is no such layer, or grad-cam is not installed.
    """

    def __init__(self,
                 predictor: Predictor,
                 layer: Optional[str] = None,
                 stage: Optional[int] = None,
                 method: Optional[str] = None,
                 score_thr: float = 0.,
                 loads_rgb: bool = False) -> None:
        self.predictor = predictor
        self.model: nn.Module = predictor.inferencer.model.eval().requires_grad_(False)
        self.score_thr = score_thr
        self.loads_rgb = loads_rgb
        self.method = method or DEFAULTS[predictor.task]
        cam_class = _cam_class(self.method)
        place = find_place(self.model, layer, stage)
        self.place = place.name
        self._tap = Tap(place)
        self._network = _Network(self.model)
        self._cam = cam_class(self._network, [self._tap.module], lambda features: as_map(features, self._network.image_size))

    def explain(self, image: np.ndarray, path: Optional[Path] = None, label: Optional[int] = None) -> ActivationMap:
        """The map of a picture.

        Args:
            image: uint8 (H, W, 3), BGR.
            path: its file, which the pipeline reads in its own way.
            label: index of the class; None for the default, see the module.

        Raises:
            NothingFound: there is no such box or pixel.
            SetupError: the target does not depend on the layer, the layer runs several times a picture or gives no map, or the
                network is of a kind that is not known.
        """
        data = pseudo_collate([self.predictor.prepare(image, path)])
        picture = to_picture(data['inputs'][0], self.loads_rgb)
        height, width = picture.shape[:2]
        data = self.model.data_preprocessor(data, False)
        self._network.data_samples, self._network.image_size = data['data_samples'], tuple(data['inputs'].shape[2:])
        target = _Target(self.predictor, (height, width), label, self.score_thr)
        self._tap.runs = 0
        with torch.enable_grad():
            self._network.target = None if self.method in CLASS_FREE else target
            heat = self._cam(data['inputs'], [self._check])[0]
        self._check_runs()
        heat = heat[:height, :width]  # what the preprocessor pads is at the right and at the bottom
        return ActivationMap(heat / max(heat.max(), np.float32(1e-7)), picture, target.label, target.value, target.boxes,
                             target.region)

    def close(self) -> None:
        """Take the hooks out of the network."""
        self._cam.activations_and_grads.release()
        self._tap.remove()

    def _check(self, target: Tensor) -> Tensor:
        self._check_runs()
        if not target.requires_grad:  # only what comes from the layer does
            raise SetupError(f'what {type(self.model).__name__} finds does not depend on {self.place} in a way that can be '
                             'followed back; give another layer with --layer')
        return target

    def _check_runs(self) -> None:
        if self._tap.runs != 1:
            raise SetupError(f'{self.place} runs {self._tap.runs} times a picture; give a layer that runs once with --layer')


class _Network(nn.Module):
    """What grad-cam takes for a network: image to a list with the target."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.data_samples: List[Any] = []
        self.image_size = ()
        self.target: Optional['_Target'] = None

    def forward(self, inputs: Tensor) -> List[Tensor]:
        if self.target is not None:
            return [self.target(self.model, inputs, self.data_samples)]
        self.model.extract_feat(inputs)
        return []


class _Target:
    """The number whose gradient is taken; its attributes, as of `ActivationMap`, are known once it was."""

    def __init__(self, predictor: Predictor, size: tuple, label: Optional[int], score_thr: float) -> None:
        self.label = label
        self.value: Optional[float] = None
        self.boxes = np.zeros((0, 4), np.float32)
        self.region: Optional[np.ndarray] = None
        self._size = size
        self._score_thr = score_thr
        self._compute = dict(detection=self._detection, segmentation=self._segmentation,
                             classification=self._classification)[predictor.task]

    def __call__(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> Tensor:
        target = self._compute(model, inputs, data_samples)
        self.value = float(target.detach())
        return target

    def _detection(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> Tensor:
        with _scores_with_gradient():
            sample, = model.predict(inputs, data_samples, rescale=False)
        if 'pred_instances' not in sample:
            raise SetupError(f'{type(model).__name__} finds no instances with boxes; give the config of a detector, a '
                             'segmentor or a classifier')
        found = sample.pred_instances
        found = found[found.scores.detach() >= self._score_thr]
        if self.label is not None:
            found = found[found.labels == self.label]
        if not len(found):
            raise NothingFound
        self.boxes = found.bboxes.detach().cpu().numpy()
        return found.scores.sum()

    def _segmentation(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> Tensor:
        logits = model.encode_decode(inputs, [sample.metainfo for sample in data_samples])[0]
        height, width = self._size
        logits = logits[:, :height, :width]
        if logits.shape[0] == 1:  # of the second of two classes
            logits = torch.cat([-logits, logits])
        winners = logits.detach().argmax(0)
        if self.label is None:
            self.label = int(winners.flatten().bincount().argmax())
        region = winners == self.label
        if not region.any():
            raise NothingFound
        self.region = region.cpu().numpy()
        return logits[self.label][region].mean()

    def _classification(self, model: nn.Module, inputs: Tensor, data_samples: List[Any]) -> Tensor:
        logits = model(inputs, mode='tensor')
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise SetupError(f'the head of {type(model).__name__} gives no logits of classes; give the config of a detector, a '
                             'segmentor or a classifier')
        if self.label is None:
            self.label = int(logits[0].detach().argmax())
        return logits[0, self.label]


def find_label(classes: Tuple[str, ...], name: Optional[str]) -> Optional[int]:
    """Index of a class by its name.

    Raises:
        SetupError: there is none of this name.
    """
    if name is None:
        return None
    if name not in classes:
        raise SetupError(f'--class {name} is no class of this network; choose from {shorten(classes, 10)}')
    return classes.index(name)


def _cam_class(method: str) -> type:
    if method not in METHODS:
        raise SetupError(f'--method {method} is unknown; choose from {", ".join(METHODS)}')
    missing = [name for name in ('ttach', 'sklearn', 'pytorch_grad_cam') if find_spec(name) is None]
    if missing:
        raise SetupError(f'class activation maps need {", ".join(missing)}, not installed here; run `pip install ttach '
                         'scikit-learn` and `pip install --no-deps grad-cam`, whose dependencies have a second OpenCV')
    mend_torchvision()  # before grad-cam imports it
    import pytorch_grad_cam
    cam_class = getattr(pytorch_grad_cam, _CLASSES[method])
    if not method.startswith('eigen'):
        return cam_class

    class PrincipalCAM(cam_class):
        """Without the library's matrix of all pairs of places, 16 GB for the first stage at 800 x 1280 pixels."""

        def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth=False):
            features = activations if method == 'eigencam' else grads * activations
            return np.stack([first_principal(entry) for entry in features])

    return PrincipalCAM


def first_principal(features: np.ndarray) -> np.ndarray:
    """Features (C, H, W) along their first principal component (EigenCAM, arXiv 2008.00299): float32 (H, W).

    A component has no sign; here the value farthest from 0 is above it, as in grad-cam's SegEigenCAM.
    """
    rows = features.reshape(len(features), -1).T.astype(np.float64)  # (C, H, W) -> (H*W, C)
    rows = rows - rows.mean(axis=0)
    projection = rows @ np.linalg.eigh(rows.T @ rows)[1][:, -1]
    if -projection.min() > projection.max():
        projection = -projection
    return projection.reshape(features.shape[1:]).astype(np.float32)


@contextmanager
def _scores_with_gradient() -> Iterator[None]:
    """MMDetection's dense heads detach what they predict, for the sake of two-stage training; here it stays in the graph."""
    from mmdet.models.utils import select_single_mlvl

    def attached(maps: Sequence[Tensor], image: int, detach: bool = True) -> List[Tensor]:
        return select_single_mlvl(maps, image, detach=False)

    with ExitStack() as stack:
        for name, module in list(sys.modules.items()):
            if name.startswith('mmdet.models.dense_heads.') and hasattr(module, 'select_single_mlvl'):
                stack.enter_context(mock.patch.object(module, 'select_single_mlvl', attached))
        yield
