"""From command line and config file to the config that the runner gets."""
import argparse
import os
from pathlib import Path
from typing import Any, List

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.runner import find_latest_checkpoint

from .datasets import leaf_datasets
from hybrid_mm.errors import SetupError

_TTA_MODELS = {
    'mmdet': dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmseg': dict(type='SegTTAModel'),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}
_TTA_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')


def load_config(args: argparse.Namespace) -> Config:
    """The config file with ``--launcher``, ``--cfg-options`` and the work folder, which a config may set too."""
    cfg = Config.fromfile(args.config)
    cfg.launcher = args.launcher
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('./work_dirs', Path(args.config).stem)
    if cfg.get('default_scope') == 'mmpretrain':
        _complete_loaders(cfg)
    return cfg


def set_up_training(cfg: Config, args: argparse.Namespace) -> None:
    """Put ``--amp``, ``--auto-scale-lr`` and ``--resume`` into the config.

    Raises:
        SetupError: the config or the machine cannot do what an option asks for.
    """
    if args.amp:
        if get_device() == 'cpu':
            raise SetupError('--amp needs a GPU and there is none; leave --amp out')
        optim_wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
        if optim_wrapper not in ('OptimWrapper', 'AmpOptimWrapper'):
            raise SetupError(f'--amp replaces OptimWrapper, but optim_wrapper.type={optim_wrapper!r}; leave --amp out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise SetupError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config, the total batch that '
                             'its learning rate is for')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
        if cfg.load_from or find_latest_checkpoint(cfg.work_dir):
            _drop_released(cfg.model)


def set_up_testing(cfg: Config, args: argparse.Namespace) -> None:
    """Put the checkpoint, ``--show``, ``--show-dir``, ``--tta`` and ``--out`` into the config.

    Raises:
        SetupError: the config cannot do what an option asks for.
    """
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show or args.show_dir:
        _show(cfg, args)
    if args.tta:
        _augment(cfg)
    if args.out is not None:
        _keep_predictions(cfg, args.out)


def adapt_to_cpu(cfg: Config) -> List[str]:
    """Replace what a machine without GPU cannot do.

    Mixed precision becomes float32. With several processes SyncBN, which refuses tensors on a CPU, becomes BN, and the
    model wrapper gets no device number.

    Returns:
        A sentence for the user about each change that alters the results.
    """
    notices = []
    if cfg.get('optim_wrapper', {}).get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):
            cfg.optim_wrapper.pop(key, None)
        notices.append('Without a GPU this trains in float32, not in mixed precision.')
    if cfg.launcher != 'none':
        if _replace_sync_bn(cfg.model) or cfg.pop('sync_bn', None):
            notices.append('Without a GPU SyncBN becomes BN: each process takes the statistics of its own batch.')
        defaults = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))
        cfg.model_wrapper_cfg = {**defaults, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}
    return notices


def _drop_released(node: Any) -> None:
    """Take `hybrid_mm.Released` out of a nested config: a resumed model need not fetch what its checkpoint replaces."""
    if isinstance(node, dict):
        if isinstance(node.get('init_cfg'), dict) and node['init_cfg'].get('type') == 'hybrid_mm.Released':
            node['init_cfg'] = None
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            _drop_released(part)


def _complete_loaders(cfg: Config) -> None:
    """What MMPretrain's own tools add to the loaders of a config."""
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        if loader is not None:
            loader.setdefault('pin_memory', True)
            loader.setdefault('persistent_workers', loader.get('num_workers', 0) > 0)
            loader.setdefault('collate_fn', dict(type='default_collate'))


def _show(cfg: Config, args: argparse.Namespace) -> None:
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise SetupError('--show and --show-dir need a visualization hook in the default_hooks of the config, such as '
                         "visualization=dict(type='DetVisualizationHook')")
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    hook['enable' if cfg.default_scope == 'mmpretrain' else 'draw'] = True
    if cfg.default_scope == 'mmdet':
        if args.show_dir:
            hook.test_out_dir = args.show_dir
        return
    hook.interval = 1  # all pictures, as MMDetection
    if args.show_dir and cfg.default_scope == 'mmpretrain':
        hook.out_dir = args.show_dir
    elif args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def _augment(cfg: Config) -> None:
    if _predicts_masks(cfg.model):
        raise SetupError('--tta merges boxes, but not masks, and roi_head.mask_head of the config predicts masks; '
                         'evaluate the boxes alone with `--cfg-options model.roi_head.mask_head=None '
                         'test_evaluator.metric=bbox`, or leave --tta out')
    tta_model = cfg.get('tta_model') or _TTA_MODELS[cfg.default_scope]
    datasets = [dataset for _, dataset in leaf_datasets(cfg.test_dataloader.dataset, '')]
    tta_pipeline = cfg.get('tta_pipeline') or _flips(datasets[0].pipeline, cfg.default_scope)
    cfg.model = ConfigDict(tta_model, module=cfg.model)
    for dataset in datasets:
        dataset.pipeline = tta_pipeline


def _predicts_masks(model: dict) -> bool:
    return (model.get('roi_head') or {}).get('mask_head') is not None


def _flips(pipeline: List[dict], scope: str) -> List[dict]:
    """A test pipeline that gives each image as it is and flipped."""
    *head, pack = pipeline
    if scope == 'mmdet':
        pack = dict(pack, meta_keys=_TTA_META_KEYS)
    flips = [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)]
    return [*head, dict(type='TestTimeAug', transforms=[flips, [pack]])]


def _keep_predictions(cfg: Config, out: str) -> None:
    evaluators = cfg.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, (list, tuple)) else [evaluators]
    if cfg.default_scope == 'mmseg':
        for evaluator in evaluators:
            evaluator.output_dir = out
    elif not out.endswith(('.pkl', '.pickle')):
        raise SetupError(f'--out {out} is not allowed; give a file that ends in .pkl or .pickle')
    else:
        kind = 'DumpDetResults' if cfg.default_scope == 'mmdet' else 'DumpResults'
        cfg.test_evaluator = [*evaluators, dict(type=kind, out_file_path=out)]


def _replace_sync_bn(node: Any) -> bool:
    """Turn SyncBN into BN in a nested config; True if there was any."""
    if isinstance(node, dict):
        found = node.get('type') in ('SyncBN', 'MMSyncBN')
        if found:
            node['type'] = 'BN'
        parts = node.values()
    else:
        found, parts = False, node if isinstance(node, (list, tuple)) else ()
    return any([found, *map(_replace_sync_bn, parts)])
