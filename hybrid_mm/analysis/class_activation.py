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
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple
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
    'gradcam': 'GradCAM', 'gradcam++': 'GradCAMPlusPlus', 'xgradcam': 'XGradCAM', 'hirescam': 'HiResCAM',
    'layercam': 'LayerCAM', 'eigengradcam': 'EigenGradCAM', 'eigencam': 'EigenCAM',
}  # yapf: disable
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
        layer, stage: whose features are looked at, see `cam_layers.find_place`.
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
        self.loads_rgb = loads_rgb
        self.method = method or DEFAULTS[predictor.task]
        cam_class = _cam_class(self.method)
        place = find_place(self.model, layer, stage)
        self.place = place.name
        self._tap = Tap(place)
        self._target = _Target(self.model, None if self.method in CLASS_FREE else predictor.task, score_thr)
        self._cam = cam_class(self._target, [self._tap.module], lambda features: as_map(features, self._target.padded))
        if self.method.startswith('eigen'):
            self._cam.get_cam_image = self._principal_image

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
        self._target.begin(data['data_samples'], (height, width), tuple(data['inputs'].shape[2:]), label)
        self._tap.runs = 0
        with torch.enable_grad():
            heat = self._cam(data['inputs'], [self._check])[0]
        self._check_runs()
        heat = heat[:height, :width]  # what the preprocessor pads is at the right and at the bottom
        return ActivationMap(heat / max(heat.max(), np.float32(1e-7)), picture, **self._target.found)

    def close(self) -> None:
        """Take the hooks out of the network."""
        self._cam.activations_and_grads.release()
        self._tap.remove()

    def _principal_image(self, inputs, layer, targets, activations, grads, eigen_smooth=False) -> np.ndarray:
        """Without the library's matrix of all pairs of places, 16 GB for the first stage at 800 x 1280 pixels."""
        features = activations if self.method == 'eigencam' else grads * activations
        return np.stack([first_principal(entry) for entry in features])

    def _check(self, target: Tensor) -> Tensor:
        """The target, which grad-cam starts from."""
        self._check_runs()
        if not target.requires_grad:  # only what comes from the layer does
            raise SetupError(f'what {type(self.model).__name__} finds does not depend on {self.place} in a way that can be '
                             'followed back; give another layer with --layer')
        return target

    def _check_runs(self) -> None:
        if self._tap.runs != 1:
            raise SetupError(f'{self.place} runs {self._tap.runs} times a picture; give a layer that runs once with --layer')


class _Target(nn.Module):
    """What grad-cam takes for a network: from the image to a list with the number whose gradient is taken.

    Attributes:
        padded: height and width of the image as it goes into the network.
        found: of `ActivationMap` what is said of the target.
    """

    def __init__(self, model: nn.Module, task: Optional[str], score_thr: float) -> None:
        super().__init__()
        self.model, self._score_thr = model, score_thr
        self._compute = {None: None, 'detection': self._detection, 'segmentation': self._segmentation,
                         'classification': self._classification}[task]

    def begin(self, data_samples: List[Any], size: Tuple[int, int], padded: Tuple[int, int], label: Optional[int]) -> None:
        """Get ready for a picture, with its size before it was padded and behind."""
        self._data_samples, self._size, self.padded = data_samples, size, padded
        self.found: Dict[str, Any] = dict(label=label, target=None, boxes=np.zeros((0, 4), np.float32), region=None)

    def forward(self, inputs: Tensor) -> List[Tensor]:
        if self._compute is None:  # the method looks at the features alone
            self.model.extract_feat(inputs)
            return []
        target = self._compute(inputs, self.found['label'])
        self.found['target'] = float(target.detach())
        return [target]

    def _detection(self, inputs: Tensor, label: Optional[int]) -> Tensor:
        with _scores_with_gradient():
            sample, = self.model.predict(inputs, self._data_samples, rescale=False)
        if 'pred_instances' not in sample:
            raise SetupError(f'{type(self.model).__name__} finds no instances with boxes; give the config of a detector, a '
                             'segmentor or a classifier')
        found = sample.pred_instances
        found = found[found.scores.detach() >= self._score_thr]
        if label is not None:
            found = found[found.labels == label]
        if not len(found):
            raise NothingFound
        self.found['boxes'] = found.bboxes.detach().cpu().numpy()
        return found.scores.sum()

    def _segmentation(self, inputs: Tensor, label: Optional[int]) -> Tensor:
        logits = self.model.encode_decode(inputs, [sample.metainfo for sample in self._data_samples])[0]
        height, width = self._size
        logits = logits[:, :height, :width]
        if logits.shape[0] == 1:  # of the second of two classes
            logits = torch.cat([-logits, logits])
        winners = logits.detach().argmax(0)
        if label is None:
            label = int(winners.flatten().bincount().argmax())
        region = winners == label
        if not region.any():
            raise NothingFound
        self.found.update(label=label, region=region.cpu().numpy())
        return logits[label][region].mean()

    def _classification(self, inputs: Tensor, label: Optional[int]) -> Tensor:
        logits = self.model(inputs, mode='tensor')
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise SetupError(f'the head of {type(self.model).__name__} gives no logits of classes; give the config of a '
                             'detector, a segmentor or a classifier')
        self.found['label'] = int(logits[0].detach().argmax()) if label is None else label
        return logits[0, self.found['label']]


def find_label(classes: Tuple[str, ...], name: Optional[str]) -> Optional[int]:
    """Index of a class by its name, None for None."""
    if name is not None and name not in classes:
        raise SetupError(f'--class {name} is no class of this network; choose from {shorten(classes, 10)}')
    return None if name is None else classes.index(name)


def _cam_class(method: str) -> Callable[..., Any]:
    if method not in METHODS:
        raise SetupError(f'--method {method} is unknown; choose from {", ".join(METHODS)}')
    missing = [name for name in ('ttach', 'sklearn', 'pytorch_grad_cam') if find_spec(name) is None]
    if missing:
        raise SetupError(f'class activation maps need {", ".join(missing)}, not installed here; run `pip install ttach '
                         'scikit-learn` and `pip install --no-deps grad-cam`, whose dependencies have a second OpenCV')
    mend_torchvision()  # before grad-cam imports it
    import pytorch_grad_cam
    return getattr(pytorch_grad_cam, _CLASSES[method])


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
