"""Detector, segmentor and classifier: the stock Inferencers behind one set of methods."""
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from types import new_class
from typing import Any, Dict, List, Optional, Tuple, Type

import numpy as np
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, VISUALIZERS, init_default_scope
from mmengine.runner.checkpoint import _load_checkpoint, _load_checkpoint_to_model

from hybrid_mm.errors import SetupError

from .weights import ChecksWeights, first_dataset, fitting_weights

SCORE_THR = 0.3  # unless the user says another
_OPACITY = 0.5  # of label maps
_TOP = 5


class Predictor(ABC):
    """A network with its test pipeline and its drawing, from the stock Inferencer of its library.

    Neither the data of the config nor the weights that its backbone starts from in training (``init_cfg``) need to be there.

    Args:
        cfg: config with a test pipeline; it is changed.
        checkpoint: file with the weights of the whole network.
        device: such as ``'cpu'`` or ``'cuda:0'``.

    Attributes:
        task: for people and the JSON file.
        classes: names.

    Raises:
        SetupError: the checkpoint is of another network, or the names of its classes are unknown or of another number.
    """
    task = ''
    inferencer_type = ''  # in the `apis` of its library
    visualizer_type = ''
    mixes_sizes = False  # whether a batch may have images of several sizes
    _drawing: Dict[str, Any] = {}

    def __init__(self, cfg: Config, checkpoint: str, device: str) -> None:
        init_default_scope(cfg.default_scope)
        # the Inferencers know no wrappers around a data set
        cfg.test_dataloader.dataset = first_dataset(cfg)
        cfg.visualizer = dict(cfg.get('visualizer') or dict(type=self.visualizer_type), vis_backends=[])
        cfg.load_from = checkpoint
        self.inferencer = self._build(cfg, checkpoint, device)
        self.classes: Tuple[str, ...] = self.inferencer.model.dataset_meta['classes']

    def prepare(self, image: np.ndarray, path: Optional[Path] = None) -> Dict[str, Any]:
        """What goes into the network of an image, uint8 (H, W, 3), BGR; the pipeline reads its file, if any, in its own way."""
        return self.inferencer.pipeline(image if path is None else str(path))

    def predict(self, batch: List[Dict[str, Any]]) -> List[Any]:
        """Data samples on the CPU, one for each result of `prepare`."""
        return [sample.cpu() for sample in self.inferencer.forward(self.inferencer.collate_fn(batch))]

    @abstractmethod
    def describe(self, sample: Any) -> Dict[str, Any]:
        """The sample's part of the JSON file, see `outputs`; without files."""

    def draw(self, image: np.ndarray, sample: Any) -> np.ndarray:
        """The image, uint8 (H, W, 3), BGR, with what was found."""
        self.inferencer.visualizer.add_datasample('', image[..., ::-1], sample, draw_gt=False, **self._drawing)
        return np.ascontiguousarray(self.inferencer.visualizer.get_image()[..., ::-1])

    def _build(self, cfg: Config, checkpoint: str, device: str) -> Any:
        """The Inferencer, with the weights loaded."""
        stock = getattr(import_module(f'{cfg.default_scope}.apis'), self.inferencer_type)
        return new_class('Inferencer', (ChecksWeights, stock))(cfg, checkpoint, device=device)

    def _named(self, label: int, **values: Any) -> Dict[str, Any]:
        return {'label': label, 'class': self.classes[label], **values}


class Detector(Predictor):
    """MMDetection's, see `Predictor`; instances have a score of at least ``score_thr``."""
    task = 'detection'
    inferencer_type = 'DetInferencer'
    visualizer_type = 'DetLocalVisualizer'
    mixes_sizes = True
    _drawing = dict(pred_score_thr=-1.)  # all that `predict` leaves

    def __init__(self, cfg: Config, checkpoint: str, device: str, score_thr: float = SCORE_THR) -> None:
        super().__init__(cfg, checkpoint, device)
        self.score_thr = score_thr

    def predict(self, batch: List[Dict[str, Any]]) -> List[Any]:
        samples = super().predict(batch)
        for sample in samples:
            if 'pred_instances' not in sample:
                raise SetupError(f'{type(self.inferencer.model).__name__} finds no instances with boxes; give the config of a '
                                 'detector, a segmentor or a classifier')
            sample.pred_instances = sample.pred_instances[sample.pred_instances.scores >= self.score_thr]
        return samples

    def describe(self, sample: Any) -> Dict[str, Any]:
        found = self.inferencer.pred2dict(sample)
        masks = [dict(mask=mask) for mask in found['masks']] if 'masks' in found else [{}] * len(found['labels'])
        return dict(instances=[self._named(label, score=score, bbox=bbox, **mask) for label, score, bbox, mask in zip(
            found['labels'], found['scores'], found['bboxes'], masks)])


class Segmentor(Predictor):
    """MMSegmentation's, see `Predictor`."""
    task = 'segmentation'
    inferencer_type = 'MMSegInferencer'
    visualizer_type = 'SegLocalVisualizer'

    def label_map(self, sample: Any) -> np.ndarray:
        """Index of the class of each pixel, uint8 (H, W), or uint16 where there are more than 256 classes."""
        if 'pred_sem_seg' not in sample:
            raise SetupError(f'{type(self.inferencer.model).__name__} labels no pixels; give the config of a detector, a '
                             'segmentor or a classifier')
        return sample.pred_sem_seg.data[0].numpy().astype(np.uint8 if len(self.classes) <= 256 else np.uint16)

    def describe(self, sample: Any) -> Dict[str, Any]:
        labels = self.label_map(sample)
        counts = np.bincount(labels.ravel(), minlength=len(self.classes))
        order = sorted(np.flatnonzero(counts), key=lambda label: (-counts[label], label))
        return dict(shares=[self._named(int(label), share=float(counts[label] / labels.size)) for label in order])

    def _build(self, cfg: Config, checkpoint: str, device: str) -> Any:
        inferencer = super()._build(cfg, checkpoint, device)
        inferencer.visualizer.set_dataset_meta(**inferencer.model.dataset_meta)
        inferencer.visualizer.alpha = _OPACITY
        return inferencer


class Classifier(Predictor):
    """MMPreTrain's, see `Predictor`."""
    task = 'classification'
    visualizer_type = 'UniversalVisualizer'

    def prepare(self, image: np.ndarray, path: Optional[Path] = None) -> Dict[str, Any]:
        return self.inferencer.pipeline(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2]))

    def predict(self, batch: List[Dict[str, Any]]) -> List[Any]:
        return [sample.cpu() for sample in self.inferencer.forward(default_collate(batch))]

    def describe(self, sample: Any) -> Dict[str, Any]:
        scores, labels = sample.pred_score.topk(min(_TOP, len(self.classes)))
        return dict(top=[self._named(label, score=score) for label, score in zip(labels.tolist(), scores.tolist())])

    def draw(self, image: np.ndarray, sample: Any) -> np.ndarray:
        drawn = self._visualizer.visualize_cls(image[..., ::-1], sample, classes=self.classes, draw_gt=False)
        return np.ascontiguousarray(drawn[..., ::-1])

    def _build(self, cfg: Config, checkpoint: str, device: str) -> Any:
        from mmpretrain.apis import ImageClassificationInferencer

        cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
        model = MODELS.build(cfg.model)
        weights = fitting_weights(model, _load_checkpoint(checkpoint, map_location='cpu'), cfg)
        _load_checkpoint_to_model(model, weights)
        if device == 'cpu':
            model = revert_sync_batchnorm(model)
        # MMPreTrain's Inferencer reads these of a model that is built
        model._config, model._dataset_meta = cfg, weights['meta']['dataset_meta']
        model.dataset_meta = model._dataset_meta
        self._visualizer = VISUALIZERS.build(dict(cfg.visualizer, name=f'infer-{id(self)}'))
        return ImageClassificationInferencer(model, device=device)


PREDICTORS: Dict[str, Type[Predictor]] = {'mmdet': Detector, 'mmseg': Segmentor, 'mmpretrain': Classifier}
