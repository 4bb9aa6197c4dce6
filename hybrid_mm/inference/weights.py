"""Checkpoint and network: whether they belong together, and the names of the classes."""
from typing import Any, Dict

import numpy as np
from mmengine.config import Config
from torch import nn

from hybrid_mm.checkpoints.fit import check_heads, dataset_meta, fitting, weights_in
from hybrid_mm.data.datasets import dataset_class, leaf_datasets
from hybrid_mm.errors import SetupError


class ChecksWeights:
    """Goes in front of an Inferencer, which loads what fits of a checkpoint and guesses the names of the classes."""

    def _load_weights_to_model(self, model: nn.Module, checkpoint: dict, cfg: Config) -> None:
        super()._load_weights_to_model(model, fitting_weights(model, checkpoint, cfg), cfg)  # type: ignore[misc]  # of a mixin


def fitting_weights(model: nn.Module, checkpoint: dict, cfg: Config) -> Dict[str, Any]:
    """``state_dict`` and ``meta.dataset_meta``, with ``classes`` and ``palette``, of a checkpoint of this network.

    Args:
        checkpoint: the content of the file ``cfg.load_from``.
        cfg: config of the network; its test data say the classes where the checkpoint does not.

    Raises:
        SetupError: the checkpoint is of another network, or the names of its classes are unknown or of another number.
    """
    tensors = fitting(weights_in(checkpoint), model, cfg.load_from, spare_heads=True)
    of_training, of_config = dataset_meta(checkpoint), _metainfo_of_test_data(cfg)
    classes = of_training.get('classes') or of_config.get('classes')
    if not classes:
        raise SetupError(f'neither {cfg.load_from} nor the config names the classes; give them with `--cfg-options '
                         'test_dataloader.dataset.metainfo.classes="(\'cat\',\'dog\')"`')
    check_heads(model, classes, 'training' if of_training.get('classes') else 'test')
    palettes = (of_training.get('palette'), of_config.get('palette'))
    palette = next((p for p in palettes if p is not None and not isinstance(p, str) and len(p) == len(classes)),
                   np.random.RandomState(42).randint(0, 256, (len(classes), 3)).tolist())
    return dict(state_dict=tensors, meta=dict(dataset_meta=dict(classes=tuple(classes), palette=palette)))


def first_dataset(cfg: Config) -> Dict[str, Any]:
    """Config of the test data, without the wrappers around them; of several data sets the first."""
    return next(dataset for _, dataset in leaf_datasets(cfg.test_dataloader.dataset, ''))


def _metainfo_of_test_data(cfg: Config) -> Dict[str, Any]:
    """What the test data of a config say about their classes, without a look at the files."""
    dataset = first_dataset(cfg)
    kind = dataset_class(dataset, cfg.default_scope)
    metainfo = dict(dataset.get('metainfo') or {})
    if dataset.get('classes'):  # MMPreTrain's data sets take them directly, too
        metainfo['classes'] = dataset['classes']
    return {**getattr(kind, 'METAINFO', {}), **getattr(kind, '_load_metainfo', dict)(metainfo)}
