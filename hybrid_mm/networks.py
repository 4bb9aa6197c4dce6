"""The network of a config, built without a runner."""
import copy
import warnings
from contextlib import contextmanager
from typing import Any, Iterator

from torch import nn


def build_model(cfg: Any, device: str = 'cpu', init: str = 'random') -> nn.Module:
    """The model of a config, in evaluation mode.

    Args:
        cfg: config of a detector, segmentor or classifier, with ``default_scope`` and ``model``.
        device: where it goes; on the meta device there are no weights.
        init: ``'random'``: as at the start of a training, but for initialisers and files of weights that the config names, which
            are left out; ``'none'``: weights as the constructors leave them, for a file that is loaded afterwards.
    """
    from mmengine.registry import MODELS, DefaultScope
    model_cfg = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):  # as mmengine's Runner
        model_cfg.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    if init == 'random':
        _drop_weights(model_cfg)
    with quiet(), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(model_cfg)
        if init == 'random' and device != 'meta':
            model.init_weights()
        model.eval()  # of some backbones it returns nothing
        return model.to(device)


def preprocessor_of(cfg: Any) -> Any:
    """What a config says of its data preprocessor; empty if nothing."""
    return cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}


@contextmanager
def quiet() -> Iterator[None]:
    """Without what mmengine logs and libraries warn about while they build and load: losses and the like announce themselves."""
    from mmengine.logging import MMLogger
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logger.setLevel(level)


def _drop_weights(node: Any) -> None:
    """Take initialisers and files of weights out of a nested config."""
    if isinstance(node, dict):
        for key in ('init_cfg', 'pretrained'):
            node.pop(key, None)
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            _drop_weights(part)
