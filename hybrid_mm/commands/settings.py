"""What the options of a command line make of a config."""
import argparse
from typing import Any, List, Optional

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.runner import find_latest_checkpoint

from hybrid_mm import processes
from hybrid_mm.checkpoints.resumable import find_newest, folders_of, tell
from hybrid_mm.data.datasets import leaf_datasets
from hybrid_mm.data.preflight import hooks_of
from hybrid_mm.errors import SetupError

AMP_OPTIONS = 'loss_scale', 'dtype', 'use_fsdp'  # of mmengine's AmpOptimWrapper alone
_BFLOAT16 = 'hybrid_mm.AutocastOptimWrapper'
_COMPILE = 'hybrid_mm.CompileHook'
_TTA_MODELS = {
    'mmdet': dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
    'mmseg': dict(type='SegTTAModel'),
    'mmpretrain': dict(type='AverageClsScoreTTA'),
}
_TTA_META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')


def set_up_training(cfg: Config, args: argparse.Namespace) -> None:
    """Put ``--amp``, ``--auto-scale-lr``, ``--resume``, ``--resume-schedule``, ``--hang-timeout`` and ``--compile``
    into the config.

    Raises:
        SetupError: the config or the machine cannot do what an option asks for.
    """
    if args.amp:
        _mix_precision(cfg.optim_wrapper)
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise SetupError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config, the total batch that '
                             'its learning rate is for')
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        _resume(cfg, args.resume)
    if args.resume_schedule is not None:
        _set_hook(cfg, 'hybrid_mm.ResumeScheduleHook', schedule=args.resume_schedule)
    if args.hang_timeout is not None:
        _set_hook(cfg, 'hybrid_mm.HangGuardHook', timeout=args.hang_timeout)
    if args.compile:
        _set_hook(cfg, _COMPILE, enabled=True)
    elif cfg.get('compile'):
        _set_hook(cfg, _COMPILE)  # takes it over


def _mix_precision(optim_wrapper: ConfigDict) -> None:
    """Half precision: float16 with a scaled loss, as MMEngine has it, or bfloat16 where there is no GPU."""
    kind = optim_wrapper.get('type', 'OptimWrapper')
    if kind not in ('OptimWrapper', 'AmpOptimWrapper', _BFLOAT16):
        raise SetupError(f'--amp replaces OptimWrapper, but optim_wrapper.type={kind!r}; leave --amp out')
    if kind == _BFLOAT16:
        return
    if get_device() == 'cpu':
        optim_wrapper.type = _BFLOAT16
        for key in AMP_OPTIONS:
            optim_wrapper.pop(key, None)
    else:
        optim_wrapper.type = 'AmpOptimWrapper'
        optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_up_testing(cfg: Config, args: argparse.Namespace) -> None:
    """Put the checkpoint, ``--show``, ``--show-dir``, ``--tta``, ``--out`` and ``--compile`` into the config.

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
    if args.compile:
        _set_hook(cfg, _COMPILE, enabled=True)


def _resume(cfg: Config, choice: str) -> None:
    """Go on from a file, or with ``'auto'`` from the newest whole checkpoint; where there is none, start as the config says."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    path: Optional[str] = choice
    if choice == 'auto' and (hook.get('backend_args') or '://' in str(hook.get('out_dir'))):
        path = find_latest_checkpoint(cfg.work_dir)  # not on a local disk, as mmengine finds it
    elif choice == 'auto':
        folders = folders_of(cfg.work_dir, hook.get('out_dir'))
        path, passed = find_newest(folders)
        if processes.rank() == 0:
            print('\n'.join(tell(path, passed, folders)), flush=True)
    cfg.resume = path is not None
    if path is not None:
        cfg.load_from = path
        _drop_initialisers(cfg.model)


def _drop_initialisers(node: Any) -> None:
    """Take what reads files of weights out of a nested config: a resumed model has all weights from its checkpoint."""
    if isinstance(node, dict):
        several = node.get('init_cfg') or ()
        several = several if isinstance(several, (list, tuple)) else [several]
        if any(initialiser.get('checkpoint') for initialiser in several):
            node['init_cfg'] = [initialiser for initialiser in several if not initialiser.get('checkpoint')] or None
        if node.get('pretrained'):
            node['pretrained'] = None
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            _drop_initialisers(part)


def _set_hook(cfg: Config, kind: str, **options: Any) -> None:
    """Set options of a hook of the config; a config without it gets it."""
    there = hooks_of(cfg, kind.rpartition('.')[2])
    for hook in there:
        hook.update(options)
    if not there:
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type=kind, **options)]


def _show(cfg: Config, args: argparse.Namespace) -> None:
    hook = cfg.get('default_hooks', {}).get('visualization')
    if hook is None:
        raise SetupError('--show and --show-dir need a visualization hook in the default_hooks of the config, such as '
                         "visualization=dict(type='DetVisualizationHook')")
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_at_most is not None:
        _set_hook(cfg, 'hybrid_mm.ShowSomeHook', at_most=args.show_at_most)
    hook['enable' if cfg.default_scope == 'mmpretrain' else 'draw'] = True
    if cfg.default_scope == 'mmdet':
        if args.show_dir:
            hook.test_out_dir = args.show_dir
        return
    if args.show_at_most is not None:
        hook.interval = 1  # ShowSomeHook chooses
    hook.setdefault('interval', 1)  # all pictures, as MMDetection, unless the config says otherwise
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
