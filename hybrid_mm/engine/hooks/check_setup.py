"""Checks between building and training: do data, heads and checkpoint belong together?"""
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from hybrid_mm.checkpoints.fit import check_heads, fitting, weights_in
from hybrid_mm.data.datasets import check_categories, leaf_datasets, reads_coco_files
from hybrid_mm.data.preflight import annotation_files, check_annotations, check_settings
from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.names import check_keys
from hybrid_mm.registry import HOOKS

from ..loops import built_loops
from ..trial import check_shapes


@HOOKS.register_module()
class CheckSetupHook(Hook):
    """Stop before training or testing if data, model and checkpoint do not fit together.

    Without it MMDetection trains with wrong labels where the classes disagree with the annotation file, and the runner
    goes on with random weights where a checkpoint is of another network.

    COCO annotation files are looked through, see `hybrid_mm.data.preflight`. Our commands do so before anything is built from
    them; with MMDetection's own tool this hook does, once the loaders are built, and cannot mend.

    Args:
        annotations: what to do about faults in a COCO file: ``'stop'``, or ``'mend'`` for training with a copy, in the folder
            ``annotations`` of the work folder, in which they are left out, clipped or computed. Our tools/test.py evaluates
            on such a copy, too.
        max_share: faults that the loader leaves out by itself, such as boxes without width, stop only above this share of all
            annotations; below it, there is a warning.

    Raises:
        SetupError: a top-level key of the config is misspelt; a COCO file has faults; a data set is empty; ``num_classes`` of a
            head is not the number of the data's classes; a class is not in the COCO file; training and validation data have
            different classes; the tensors of a checkpoint are not those of the model. Resuming needs exactly these; testing may
            do without a head of the file, such as an auxiliary one; ``load_from`` in training takes the backbone's, since
            fine-tuning starts with new heads.
    """

    priority = 'HIGHEST'

    def __init__(self, annotations: str = 'stop', max_share: float = 0.01) -> None:
        check_settings(annotations, max_share)
        self.annotations = annotations
        self.max_share = max_share

    def before_run(self, runner: Runner) -> None:
        check_keys(runner.cfg)  # our tools did so before they built anything
        self._check_annotations(runner)
        model = _unwrap(runner.model)
        first_classes = None
        for split, loop in built_loops(runner):
            dataset: Any = loop.dataloader.dataset
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
        check_shapes(runner, model)

    def _check_annotations(self, runner: Runner) -> None:
        """Look through COCO files of the config; after our own tools a look at what these have kept."""
        splits = [split for split, _ in built_loops(runner)]
        try:
            check_annotations(annotation_files(runner.cfg, splits), runner.work_dir, 'stop', self.max_share)
        except SetupError as error:
            if self.annotations == 'mend':
                raise SetupError(f"{error}; annotations='mend' needs tools/train.py of hybrid_mm, since the library's own tool "
                                 'has read the file before') from None
            raise

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        testing = not isinstance(runner._train_loop, BaseLoop)
        part = 'model' if testing or runner._resume else 'backbone'
        fitting(weights_in(checkpoint), _unwrap(runner.model), runner._load_from or 'to resume from', part, spare_heads=testing)


def _unwrap(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
