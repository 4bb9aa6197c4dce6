"""BatchNorm's statistics taken anew, from what a test shows the network."""
from itertools import groupby
from typing import Any, Dict, Iterator, List

import torch
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from hybrid_mm.data.datasets import leaf_datasets
from hybrid_mm.errors import SetupError
from hybrid_mm.registry import HOOKS


@HOOKS.register_module()
class PreciseBNHook(Hook):
    """Replace BatchNorm's running statistics at the end of a training, before the last checkpoint is saved and tested.

    The running averages are of crops, of augmented colours and of weights that were still moving; a network with ParC also sees
    other borders in a crop than in a whole picture. Here pictures of the training part go through the pipeline of the tests, the
    weights stay as they are, and the statistics are the plain average over batches of them (Wu and Johnson, "Rethinking 'Batch'
    in BatchNorm", arXiv 2105.07576, section 3). MMPreTrain's hook of this name sees the training crops.

    Layers whose statistics are not trained (``norm_eval``, frozen stages) are left alone. Every process sees the same pictures,
    so all end with the same statistics.

    Args:
        num_pictures: how many, evenly spread over the training part; all, if there are fewer.
        batch_size: pictures of a batch; those of a batch have one size, as the tests do not pad.
    """

    def __init__(self, num_pictures: int = 200, batch_size: int = 4) -> None:
        for name, value in (('num_pictures', num_pictures), ('batch_size', batch_size)):
            if value < 1:
                raise SetupError(f'{name}={value} of PreciseBNHook is not allowed; choose 1 or more')
        self.num_pictures = num_pictures
        self.batch_size = batch_size

    def before_train(self, runner: Runner) -> None:
        self._pipeline(runner)  # says what is missing before hours of training

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter + 1 == runner.max_iters:
            model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
            layers = [layer for layer in model.modules()
                      if isinstance(layer, _BatchNorm) and layer.training and layer.track_running_stats]
            if layers:
                print_log(f"BatchNorm's statistics are taken anew from {self.num_pictures} pictures", 'current')
                self._take(model, layers, self._batches(runner))

    def _take(self, model: Any, layers: List[_BatchNorm], batches: Iterator[Dict[str, Any]]) -> None:
        training = {module: module.training for module in model.modules()}
        before = [(layer, layer.momentum, {name: value.clone() for name, value in layer.named_buffers()}) for layer in layers]
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain average of all batches
            layer.train()
        with torch.no_grad():
            for batch in batches:
                model(**model.data_preprocessor(batch, False), mode='tensor')
        for layer, momentum, buffers in before:
            layer.momentum = momentum
            unused = layer.num_batches_tracked == 0  # such as those of an auxiliary head
            layer.load_state_dict(buffers if unused else {'num_batches_tracked': buffers['num_batches_tracked']}, strict=False)
        for module, mode in training.items():
            module.training = mode

    def _batches(self, runner: Runner) -> Iterator[Dict[str, Any]]:
        pipeline = self._pipeline(runner)
        parts = [part for _, part in leaf_datasets(runner.train_dataloader.dataset, 'train_dataloader.dataset')]
        pictures = [(part, index) for part in parts for index in range(len(part))]
        number = min(self.num_pictures, len(pictures))
        chosen = [pictures[i * len(pictures) // number] for i in range(number)]
        samples = (pipeline(part.get_data_info(index)) for part, index in chosen)
        for _, same in groupby(samples, key=lambda sample: sample['inputs'].shape):
            batch: List[dict] = []
            for sample in same:
                batch.append(sample)
                if len(batch) == self.batch_size:
                    yield _collate(batch)
                    batch = []
            if batch:
                yield _collate(batch)

    @staticmethod
    def _pipeline(runner: Runner) -> Compose:
        for part in ('val_dataloader', 'test_dataloader'):
            loader = runner.cfg.get(part)
            if loader:
                return Compose(next(leaf_datasets(loader.dataset, part))[1].pipeline)
        raise SetupError('PreciseBNHook shows the network pictures as the tests do, and the config has neither a val_dataloader '
                         'nor a test_dataloader; leave the hook out, or add one')


def _collate(batch: List[dict]) -> Dict[str, Any]:
    return {key: [sample[key] for sample in batch] for key in batch[0]}
