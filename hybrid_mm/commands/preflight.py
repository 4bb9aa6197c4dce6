"""Checks before anything is built or written: what the command line and the config name has to be there."""
import inspect
import logging
import os
from pathlib import Path
from typing import Any, Optional, Sequence

from mmengine.config import Config
from mmengine.device import get_device

from hybrid_mm.checkpoints.contents import check_usable
from hybrid_mm.checkpoints.fit import starting_weights
from hybrid_mm.checkpoints.resumable import check_resumable
from hybrid_mm.data.datasets import (
    check_categories,
    dataset_class,
    evaluators_of,
    leaf_datasets,
    read_categories,
    reads_coco_files,
)
from hybrid_mm.data.preflight import annotation_files, check_annotations, settings_of, use_copies
from hybrid_mm.errors import SetupError

_VARIABLES = {  # launcher -> environment variables that its processes have, and how they are started
    'pytorch': (('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'), 'bash tools/dist_train.sh CONFIG GPUS'),
    'slurm': (('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'), 'bash tools/slurm_train.sh PARTITION JOB CONFIG ...'),
    'mpi': (('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK', 'MASTER_ADDR'), 'mpirun'),
}


def check_launcher(launcher: str) -> None:
    """See that ``--launcher`` agrees with the environment.

    Raises:
        SetupError: a launcher started this process, but ``--launcher`` is missing; or the other way round; or a
            launcher that needs GPUs runs without.
    """
    environ = os.environ
    if launcher == 'none':
        # each process would train on its own, all into the same folder
        for name in ('LOCAL_RANK', 'WORLD_SIZE'):
            if name == 'LOCAL_RANK' and name in environ or int(environ.get(name, 1)) > 1:
                raise SetupError(f'{name}={environ[name]} is set, as a launcher of several processes does, but '
                                 f'--launcher is missing; add --launcher pytorch, or unset {name} for a single process')
        return
    names, command = _VARIABLES[launcher]
    missing = [name for name in names if name not in environ]
    if missing:
        raise SetupError(f'--launcher {launcher} needs the environment variables {", ".join(missing)}, which are not '
                         f'set; start with `{command}`, or leave --launcher out for a single process')
    if launcher != 'pytorch' and get_device() == 'cpu':
        raise SetupError(f'--launcher {launcher} needs GPUs and there is none; without a GPU use --launcher pytorch')


def check_file(path: str, what: str) -> None:
    """Raise a SetupError where a file does not exist; `what` names it in the message."""
    if not os.path.isfile(path):
        raise SetupError(f'{what} {path} does not exist; give the path of a file')


def check_checkpoint(path: Optional[str], what: str, resume: bool = False) -> None:
    """See that a local checkpoint, if there is to be one, exists, is whole, and holds nothing but finite weights.

    Args:
        path: the file; a URL and the like are left to the runner.
        what: names it in the message.
        resume: whether a training is to go on from it.
    """
    if path is not None:
        (check_resumable if resume else check_usable)(path, what)


def check_starting_weights(cfg: Config) -> None:
    """`check_checkpoint` for each local file that a part of the model starts from, ``init_cfg.checkpoint``."""
    for path, name, command_line in starting_weights(cfg.model, 'model'):
        if '://' not in path and not os.path.isfile(os.path.expanduser(path)):
            init_cfg = name.rsplit('.', 1)[0]
            raise SetupError(f'{name} {path} does not exist; give a file with `--cfg-options {name}=FILE`, or start from '
                             f'random weights with `--cfg-options {init_cfg}=None`')
        check_usable(path, name, command_line)


def check_data(cfg: Config, splits: Sequence[str], annotations: bool = True, keep: bool = True) -> None:
    """Raise a SetupError where folders or files of the data sets are missing, or files are not what the data sets read.

    With ``annotations`` COCO files are looked through, and where `hybrid_mm.CheckSetupHook` of the config says so, mended copies
    take their place in the config, see `hybrid_mm.data.preflight.check_annotations`, which ``keep`` is for.
    ``splits`` are those of train, val and test that the run uses.
    """
    leaves = [leaf for split in splits if cfg.get(f'{split}_dataloader') is not None
              for leaf in leaf_datasets(cfg[f'{split}_dataloader'].dataset, f'{split}_dataloader.dataset')]
    for name, dataset in leaves:
        _check_dataset(dataset, name, cfg.default_scope)
    for split in splits:
        evaluators = cfg.get(f'{split}_evaluator') or []
        for evaluator in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
            name = f'{split}_evaluator.ann_file'
            _check_path(evaluator.get('ann_file'), name, name)
        for evaluator in evaluators_of(cfg, split):
            path = evaluator.get('ann_file') or ''
            if not evaluator.get('format_only') and os.path.isfile(path):
                read_categories(path)  # here it has to have annotations
    if annotations:
        work_dir = cfg.get('work_dir')
        use_copies(cfg, splits, check_annotations(annotation_files(cfg, splits), work_dir or 'work_dirs',
                                                  keep=keep and work_dir is not None, **settings_of(cfg)))
        for _, dataset in leaves:
            _check_classes(dataset, cfg.default_scope)


def _check_dataset(dataset: dict, name: str, scope: str) -> None:
    kind = dataset_class(dataset, scope)
    if kind is None or dataset.get('backend_args') or 'download' in inspect.signature(kind).parameters:
        return  # unknown to the registry, which says so; not on a local disk; or fetched when it is missing
    root = dataset.get('data_root')
    _check_path(root, f'{name}.data_root', f'{name}.data_root')
    prefixes = dataset.get('data_prefix')
    given = dict(ann_file=dataset.get('ann_file'), **(
        {f'data_prefix.{key}': path for key, path in prefixes.items()} if isinstance(prefixes, dict) else
        dict(data_prefix=prefixes)))
    paths = {key: os.path.join(root or '', path) for key, path in given.items() if path and isinstance(path, str)}
    for key, path in paths.items():
        _check_path(path, f'{name}.{key}', f'{name}.data_root' if root else f'{name}.{key}')
    ann_file = paths.get('ann_file', '')
    if reads_coco_files(kind) and os.path.isfile(ann_file):
        read_categories(ann_file, with_annotations=not dataset.get('test_mode', False))


def _check_classes(dataset: dict, scope: str) -> None:
    kind = dataset_class(dataset, scope)
    ann_file = os.path.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
    if kind is not None and not dataset.get('backend_args') and reads_coco_files(kind) and os.path.isfile(ann_file):
        classes = (dataset.get('metainfo') or {}).get('classes') or kind.METAINFO['classes']
        if not isinstance(classes, str):  # a file with names, which the data set reads
            check_categories(ann_file, classes, with_annotations=not dataset.get('test_mode', False))


def _check_path(path: Optional[str], name: str, option: str) -> None:
    if not path or '://' in path or os.path.exists(os.path.expanduser(path)):
        return
    at_once = '`--data-root FOLDER` or ' if option.endswith(('.data_root', '_evaluator.ann_file')) else ''
    advice = f'put the data there or give their place with {at_once}`--cfg-options {option}=PATH`'
    if 'shapes' in Path(path).parts:
        advice = f'make the data with `python tools/datasets/make_shapes.py`, or {advice}'
    raise SetupError(f'{path}, the {name} of the config, does not exist; {advice}')


_LEAST = {  # setting of a training -> its least value; each is a whole number, or missing, or None
    'train_cfg.max_epochs': 1, 'train_cfg.max_iters': 1, 'train_cfg.val_interval': 1, 'randomness.seed': 0,
    'default_hooks.logger.interval': 1, 'optim_wrapper.accumulative_counts': 1, **{
        f'{split}_dataloader.{name}': least for split in ('train', 'val', 'test')
        for name, least in (('batch_size', 1), ('num_workers', 0))},
}
_LOOPS = {'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'), 'test': ('test_dataloader', 'test_cfg', 'test_evaluator')}


def check_run(cfg: Config, split: str) -> None:
    """See that the config has what a training (``split='train'``) or a test needs, with numbers that can work.

    Raises:
        SetupError: a part is missing, or a number is no whole one or too small; or the work folder cannot be written.
    """
    missing = [name for name in _LOOPS[split] if cfg.get(name) is None]
    if missing:
        what = 'training' if split == 'train' else 'test'
        raise SetupError(f'the config has no {", ".join(missing)}, which a {what} needs; give a config with '
                         f'{", ".join(_LOOPS[split])}')
    of_val = [name for name in ('val_dataloader', 'val_cfg', 'val_evaluator') if cfg.get(name) is None]
    if split == 'train' and len(of_val) in (1, 2):
        raise SetupError(f'the config has no {", ".join(of_val)}, but other settings of a validation; give val_dataloader, '
                         'val_cfg and val_evaluator, or set all three to None for a training without validation')
    for part in ('train', 'val') if split == 'train' else ('test', ):
        loader = cfg.get(f'{part}_dataloader') or {}
        for name, dataset in leaf_datasets(loader.get('dataset') or {}, f'{part}_dataloader.dataset'):
            if 'pipeline' in dataset and not dataset.pipeline:
                raise SetupError(f'{name}.pipeline of the config is empty; give one that loads pictures and packs them')
    for name, least in _LEAST.items():
        node: Any = cfg
        for key in name.split('.'):
            node = node.get(key) if isinstance(node, dict) or node is cfg else None
        if node is not None and (isinstance(node, bool) or not isinstance(node, int) or node < least):
            raise SetupError(f'{name}={node!r} is not allowed; give a whole number, {least} or more')
    level = cfg.get('log_level', 'INFO')
    if not isinstance(getattr(logging, str(level), None), int):
        raise SetupError(f'log_level={level!r} is not allowed; choose from DEBUG, INFO, WARNING, ERROR')
    folder = Path(cfg.work_dir)
    for above in (folder, *folder.parents):
        if above.exists() and not above.is_dir():
            raise SetupError(f'the work folder {folder} cannot be made, since {above} is a file; give another one with '
                             '--work-dir')
