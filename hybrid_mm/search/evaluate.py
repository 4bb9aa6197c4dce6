"""The metric of a candidate with the weights of its supernet.

BatchNorm's running statistics of a supernet are a mixture over candidates and fit none of them. They are estimated anew for
each candidate, from the same training images, before it is evaluated on the same part of the validation data.
"""
import copy
import io
import itertools
import random
from contextlib import contextmanager, redirect_stdout
from typing import Any, Dict, Iterable, Iterator, List, Optional

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.device import get_device
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint
from mmengine.utils.dl_utils import set_multi_processing
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from hybrid_mm.checkpoints.fit import load_fitting, weights_in
from hybrid_mm.data.guarded_pipeline import guard
from hybrid_mm.networks import build_model, quiet

from .settings import SearchSettings
from .space import Candidate


class CandidateEvaluator:
    """Evaluates candidates one after the other; the result of each does not depend on the others.

    Args:
        cfg: config of a detector, segmentor or classifier with `hybrid_mm.GLiTSupernet`.
        settings: of the search.
        checkpoint: file with the trained weights of the model.

    Raises:
        ValueError: the checkpoint is of another network; or the validation data, of which ``val_images`` asks for a part, are
            several data sets in one.
    """

    def __init__(self, cfg: Config, settings: SearchSettings, checkpoint: str) -> None:
        set_multi_processing(**cfg.get('env_cfg', {}).get('mp_cfg', {}))
        self.scope = cfg.default_scope
        self.settings = settings
        self.model = load_supernet(cfg, checkpoint).to(get_device())
        self._train_loader = _train_loader(cfg, settings)
        self._val_loader = _val_loader(cfg, settings)
        with _silent():
            self._evaluator = Evaluator(copy.deepcopy(cfg.val_evaluator))
        dataset = self._val_loader.dataset
        self._evaluator.dataset_meta = dataset.metainfo
        for metric in self._evaluator.metrics:  # COCO's counts all images of the annotation file otherwise
            if hasattr(metric, '_coco_api') and hasattr(dataset, 'get_data_info'):
                metric.img_ids = [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]
        self._cached: Dict[str, List[Any]] = {}

    def __call__(self, candidate: Candidate) -> Dict[str, float]:
        """All metrics of a candidate by name."""
        self.model.backbone.set_path(candidate)
        # Without Mixup and CutMix, as in validation. MMSegmentation pads crops to one size only in its form for training.
        batches = (self.model.data_preprocessor(batch, training=self.scope == 'mmseg')
                   for batch in self._batches('train', self._train_loader, self.settings.bn_batches))
        reestimate_batchnorm(self.model, batches)
        with torch.no_grad(), _silent():
            for batch in self._batches('val', self._val_loader):
                self._evaluator.process(data_samples=self.model.val_step(batch), data_batch=batch)
            metrics = self._evaluator.evaluate(len(self._val_loader.dataset))
        return {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0 and not isinstance(value, str)}

    def _batches(self, name: str, loader: DataLoader, number: Optional[int] = None) -> Iterable[dict]:
        """The same batches in each call and in each process, augmentation included."""
        if name not in self._cached:
            random.seed(0)
            np.random.seed(0)
            torch.manual_seed(0)
            batches = itertools.islice(loader, number)
            if not self.settings.cache:
                return batches
            self._cached[name] = list(batches)
        return self._cached[name]


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[dict]) -> None:
    """Replace BatchNorm's running statistics by the mean over batches of the statistics of each.

    BatchNorm layers alone are in training mode: dropout and stochastic depth are off, as in the evaluation that follows. The
    model is left in evaluation mode.

    Args:
        model: of OpenMMLab.
        batches: keyword arguments of its forward pass, preprocessed.
    """
    model.eval()
    momenta = {m: m.momentum for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats}
    if not momenta:
        return
    try:
        for norm in momenta:
            norm.reset_running_stats()
            norm.momentum = None  # the plain mean
            norm.train()
        for batch in batches:
            model(**batch, mode='tensor')
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
            norm.eval()


def load_supernet(cfg: Config, checkpoint: str) -> nn.Module:
    """The model of a config with the weights of a checkpoint, on the CPU.

    Raises:
        ValueError: the checkpoint is of another network.
    """
    init_default_scope(cfg.default_scope)
    model = build_model(cfg, init='none')
    with quiet():
        load_fitting(model, weights_in(_load_checkpoint(checkpoint, map_location='cpu')), checkpoint)
    return model


def _train_loader(cfg: Config, settings: SearchSettings) -> DataLoader:
    loader = copy.deepcopy(cfg.train_dataloader)
    loader.pop('batch_sampler', None)
    # workers that persist draw other augmentations in each pass
    loader.update(batch_size=settings.bn_batch_size, sampler=dict(type='DefaultSampler', shuffle=True), persistent_workers=False)
    return _build_loader(loader, cfg)


def _val_loader(cfg: Config, settings: SearchSettings) -> DataLoader:
    loader = copy.deepcopy(cfg.val_dataloader)
    loader.update(sampler=dict(type='DefaultSampler', shuffle=False))
    built = _build_loader(loader, cfg)
    if settings.val_images is None or settings.val_images >= len(built.dataset):
        return built
    if not isinstance(built.dataset, BaseDataset):
        raise ValueError(f'search.val_images={settings.val_images} needs one plain data set for validation, not a '
                         f'{type(built.dataset).__name__}; choose None')
    chosen = np.linspace(0, len(built.dataset) - 1, settings.val_images).round().astype(int)
    built.dataset.get_subset_(chosen.tolist())  # the sampler asks for the length when it is made
    loader.dataset = built.dataset
    return _build_loader(loader, cfg)


def _build_loader(loader: dict, cfg: Config) -> DataLoader:
    if cfg.default_scope == 'mmpretrain':
        loader.setdefault('collate_fn', dict(type='default_collate'))
    built = Runner.build_dataloader(loader, seed=0)
    guard(built.dataset, 'dataset')
    return built


@contextmanager
def _silent() -> Iterator[None]:
    """No table for each candidate, and none of pycocotools' seconds."""
    with quiet(), redirect_stdout(io.StringIO()):
        yield
