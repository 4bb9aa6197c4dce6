"""Checks between building and training: do data, heads and checkpoint belong together?"""
import re
from typing import Any, Dict, Iterator, Tuple

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from hybrid_mm.registry import HOOKS

from .datasets import check_categories, leaf_datasets, reads_coco_files
from hybrid_mm.errors import SetupError, shorten

# Parts whose num_classes is the number of the data's classes. Not rpn_head, which tells objects from background, nor
# the semantic heads of panoptic models, which count stuff too.
_CLASS_AWARE = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head', 'head', 'data_preprocessor')


@HOOKS.register_module()
class CheckSetupHook(Hook):
    """Stop before training or testing if data, model and checkpoint do not fit together.

    Without it MMDetection trains with wrong labels where the classes disagree with the annotation file, and the runner
    goes on with random weights where a checkpoint is of another network.

    Raises:
        SetupError: a data set is empty; ``num_classes`` of a head is not the number of the data's classes; a class is
            not in the COCO file; training and validation data have different classes; the tensors of a checkpoint are
            not those of the model. Resuming needs exactly these; testing may do without a head of the file, such as an
            auxiliary one; ``load_from`` in training takes the backbone's, since fine-tuning starts with new heads.
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        model = _unwrap(runner.model)
        first_classes = None
        for split, dataset in _built_datasets(runner):
            if len(dataset) == 0:
                raise SetupError(f'{split}_dataloader.dataset is empty; check its ann_file, data_prefix and filter_cfg')
            for _, leaf in leaf_datasets(dataset, split):
                if reads_coco_files(type(leaf)):
                    check_categories(leaf.ann_file, leaf.metainfo['classes'], with_annotations=not leaf.test_mode)
            metainfo = getattr(dataset, 'metainfo', None)
            classes = metainfo.get('classes') if isinstance(metainfo, dict) else None
            if classes is None:
                continue
            check_heads(model, classes, split)
            if first_classes is not None and list(classes) != list(first_classes):
                raise SetupError(f'the classes of the {split} data, {shorten(classes)}, are not those of the training '
                                 f'data, {shorten(first_classes)}; give both the same metainfo.classes')
            first_classes = classes

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = _unwrap(runner.model)
        file = {key[len('module.'):] if key.startswith('module.') else key: tuple(getattr(value, 'shape', ()))
                for key, value in checkpoint.get('state_dict', checkpoint).items()}
        wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        testing = not isinstance(runner._train_loop, BaseLoop)
        fine_tuning = not testing and not runner._resume
        if testing:
            file = {key: shape for key, shape in file.items() if not is_of_absent_head(key, wanted)}
        elif fine_tuning:
            wanted = {key: shape for key, shape in wanted.items() if key.startswith('backbone.')}
            file = {key: shape for key, shape in file.items() if key in wanted}
        faults = differences(file, wanted)
        if faults:
            part = 'backbone' if fine_tuning else 'model'
            raise SetupError(f'the checkpoint {runner._load_from or "to resume from"} is of another network: {faults}; '
                             f'give one that was saved with the {part} of this config')


def _built_datasets(runner: Runner) -> Iterator[Tuple[str, Any]]:
    """Split and data set of the loops of this run; the others are still configs."""
    for split in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{split}_loop')
        if isinstance(loop, BaseLoop):
            yield split, loop.dataloader.dataset


def check_heads(model: nn.Module, classes: Any, split: str) -> None:
    """See that the heads of a network predict as many classes as the data have.

    Args:
        model: the network.
        classes: names of the classes.
        split: of the data, for the message, such as ``'training'``.

    Raises:
        SetupError: ``num_classes`` of a head is another number, or `classes` is one string.
    """
    if isinstance(classes, str):
        raise SetupError(f'metainfo.classes={classes!r} of the {split} data is a string; write the tuple '
                         f'({classes!r}, )')
    for name, module in model.named_modules():
        part = [word for word in name.split('.') if not word.isdigit()][-1:]  # roi_head.bbox_head.0 is a bbox_head
        count = getattr(module, 'num_classes', None)
        if part and part[0] in _CLASS_AWARE and isinstance(count, int) and count != len(classes):
            raise SetupError(f'num_classes={count} of model.{name} disagrees with the {split} data, which have '
                             f'{len(classes)} classes: {shorten(classes, 10)}; set num_classes={len(classes)} or give '
                             'other metainfo.classes')


def is_of_absent_head(key: str, wanted: Dict[str, tuple]) -> bool:
    """Whether a tensor belongs to a head, such as ``roi_head.mask_head``, of which the model has nothing.

    Args:
        key: name of the tensor in a checkpoint.
        wanted: key -> shape of the model's tensors.
    """
    head = re.match(r'.*head\.', key)
    return head is not None and not any(name.startswith(head[0]) for name in wanted)


def differences(file: Dict[str, tuple], wanted: Dict[str, tuple]) -> str:
    """What is wrong with the tensors of a file, in words; empty if nothing is.

    Args:
        file: key -> shape of the file's tensors.
        wanted: key -> shape of the model's tensors.
    """
    # counts that no computation of the networks uses; files of old versions lack them
    missing = [key for key in wanted if key not in file and not key.endswith('num_batches_tracked')]
    unknown = [key for key in file if key not in wanted]
    reshaped = [f'{key} {file[key]} instead of {shape}' for key, shape in wanted.items()
                if file.get(key, shape) != shape]
    faults = []
    if missing:
        faults.append(f'it lacks {len(missing)} of {len(wanted)} tensors ({shorten(missing, 3)})')
    if unknown:
        faults.append(f'it has {len(unknown)} that the model has not ({shorten(unknown, 3)})')
    if reshaped:
        faults.append(f'{len(reshaped)} have other shapes ({shorten(reshaped, 3)})')
    return ', '.join(faults)


def _unwrap(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
