"""Names behind ``--cfg-options`` and arguments of our types: what nothing takes is named, and what is taken passes."""
import functools
import importlib.util
import random
import re
from pathlib import Path

import pytest
from mmengine.config import Config

from hybrid_mm.commands.config_names import check_arguments, merge_options
from hybrid_mm.errors import SetupError
from hybrid_mm.names import check_keys, config_keys, walk

DETECTOR, CLASSIFIER = 'maskrcnn_transcnn_s.py', 'imagenet_parc_convnext_xt.py'

MISSPELT = {  # detector: option -> what the message ends with
    'model.backbone.drop_path_rat': 'unknown to hybrid_mm.TransCNN; the nearest is drop_path_rate',
    'model.backbone.arhc': 'unknown to hybrid_mm.TransCNN; the nearest is arch',
    'model.backbone.init_cfg.checkpiont': 'unknown to hybrid_mm.Released; the nearest is checkpoint',
    'model.neck.start_levle': 'unknown to FPN; the nearest is start_level',
    'model.roi_head.bbox_head.num_clases': 'unknown to Shared2FCBBoxHead; the nearest is num_classes',
    'model.rpn_head.loss_cls.loss_wieght': 'unknown to CrossEntropyLoss; the nearest is loss_weight',
    'model.train_cfg.rcnn.assigner.pos_iou_th': 'unknown to MaxIoUAssigner; the nearest is pos_iou_thr',
    'model.test_cfg.rcnn.score_th': 'unknown to model.test_cfg.rcnn; the nearest is score_thr',
    'model.data_preprocessor.pad_size_divsor': 'unknown to DetDataPreprocessor; the nearest is pad_size_divisor',
    'train_dataloder.batch_size': 'unknown to the config; the nearest is train_dataloader',
    'train_dataloader.batchsize': 'unknown to train_dataloader; the nearest is batch_size',
    'train_dataloader.sampler.shufle': 'unknown to DefaultSampler; the nearest is shuffle',
    'train_dataloader.dataset.anno_file': 'unknown to CocoDataset; the nearest is ann_file',
    'train_dataloader.dataset.data_prefix.imgs': 'unknown to train_dataloader.dataset.data_prefix; the nearest is img',
    'train_dataloader.dataset.pipeline.1.with_bboxes': 'unknown to LoadAnnotations; the nearest is with_bbox',
    'model.test_cfg.rcnn.nms.tpye': 'unknown to nms; the nearest is type',
    'val_evaluator.metrc': 'unknown to CocoMetric; the nearest is metric',
    'train_cfg.max_epoch': 'unknown to EpochBasedTrainLoop; the nearest is max_epochs',
    'optim_wrapper.optimizer.weight_decai': 'unknown to AdamW; the nearest is weight_decay',
    'optim_wrapper.accumulative_count': 'unknown to OptimWrapper; the nearest is accumulative_counts',
    'optim_wrapper.paramwise_cfg.norm_decay_mul': 'unknown to optim_wrapper.paramwise_cfg; the nearest is norm_decay_mult',
    'param_scheduler.0.ends': 'unknown to LinearLR; the nearest is end',
    'default_hooks.chekpoint.interval': 'unknown to default_hooks; the nearest is checkpoint',
    'default_hooks.checkpoint.max_keep_ckpt': 'unknown to hybrid_mm.CheckpointHook; the nearest is max_keep_ckpts',
    'custom_hooks.0.priorty': 'unknown to hybrid_mm.CheckSetupHook; the nearest is priority',
    'env_cfg.cudnn_bench': 'unknown to env_cfg; the nearest is cudnn_benchmark',
    'randomness.sed': 'unknown to randomness; the nearest is seed',
    'auto_scale_lr.base_batchsize': 'unknown to auto_scale_lr; the nearest is base_batch_size',
    'visualizer.nam': 'unknown to DetLocalVisualizer; the nearest is name',
    'find_unused_paramters': 'unknown to the config; the nearest is find_unused_parameters',
    'max_epochs': 'unknown to the config; the nearest is train_cfg.max_epochs',
    'batch_size': 'the nearest is train_dataloader.batch_size, val_dataloader.batch_size, test_dataloader.batch_size',
    'optim_wrapper.optimizer.learning_rate': 'unknown to AdamW; choose from amsgrad, betas, .*weight_decay',
    'default_hooks.early.patience': 'unknown to default_hooks; choose from checkpoint, logger, .*timer',
    'nothing_like_it': 'unknown to the config; choose from activation_checkpointing, auto_scale_lr, .*work_dir',
    # through what has no settings
    'train_dataloader.dataset.pipeline.9.type': 'train_dataloader.dataset.pipeline is a list of 5; .* 0 to 4 in the place of 9',
    'train_dataloader.dataset.pipeline.Resize.scale': 'train_dataloader.dataset.pipeline is a list of 5; .* of Resize',
    'load_from.path': 'load_from=None has no settings; replace load_from as a whole, or in a config of your own',
    'model.backbone.arch.depths': "model.backbone.arch='small' has no settings; replace model.backbone.arch as a whole, .*",
    # a variable that has been put elsewhere
    'data_root': r'changes nothing: data_root is a variable of the config, and its value has been put into '
                 r'train_dataloader.dataset.data_root, val_dataloader.dataset.data_root, .*; change it there, '
                 'or all at once with --data-root FOLDER',
    'train_pipeline.2.keep_ratio': 'changes nothing: train_pipeline is .* put into train_dataloader.dataset.pipeline; .*',
    'vis_backends': 'changes nothing: vis_backends is a variable .* put into visualizer.vis_backends; change it there',
}
TAKEN = {
    'model.backbone.drop_path_rate': 0.2, 'model.backbone.with_cp': True, 'model.backbone.norm_cfg.type': 'GN',
    'model.backbone.init_cfg': None, 'model.neck.no_norm_on_lateral': True, 'model.rpn_head.loss_cls.reduction': 'sum',
    'model.train_cfg.rcnn.assigner.gpu_assign_thr': 9, 'model.test_cfg.rcnn.nms.iou_threshold': 0.6, 'model.init_cfg': None,
    'train_dataloader.batch_size': 4, 'train_dataloader.prefetch_factor': 4, 'train_dataloader.num_batch_per_epoch': 3,
    'train_dataloader.sampler.seed': 1, 'train_dataloader.dataset.indices': 5, 'train_dataloader.dataset.metainfo.classes': ['a'],
    'train_dataloader.dataset.pipeline.1.poly2mask': False, 'train_dataloader.dataset.data_prefix.seg': 'seg/',
    'val_dataloader.dataset.filter_cfg.min_size': 8, 'val_evaluator.classwise': True, 'val_cfg.fp16': True,
    'train_cfg.val_interval': 2, 'train_cfg.dynamic_intervals': [(1, 2)], 'optim_wrapper.optimizer.lr': 1e-3,
    'optim_wrapper.clip_grad.max_norm': 1, 'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.loss_scale': 'dynamic',
    'optim_wrapper.paramwise_cfg.custom_keys.neck.lr_mult': 2, 'param_scheduler.0.convert_to_iter_based': True,
    'default_hooks.checkpoint.save_optimizer': False, 'default_hooks.checkpoint.filename_tmpl': 'a{}.pth',
    'default_hooks.ema.type': 'EMAHook', 'default_hooks.ema.momentum': 0.1, 'default_hooks.timer': None,
    'env_cfg.dist_cfg.timeout': 60, 'randomness.seed': 1, 'randomness.deterministic': True, 'work_dir': 'out', 'resume': True,
    'load_from': 'a.pth', 'compile.backend': 'inductor', 'tta_model.type': 'DetTTAModel', 'find_unused_parameters': True,
    'log_processor.window_size': 5, 'visualizer.vis_backends.0.save_dir': 'out',
    'model_wrapper_cfg.type': 'MMFullyShardedDataParallel',
}


@pytest.fixture(scope='module')
def load(root):
    """A config of ours, by name; each time a new one."""
    read = functools.lru_cache(maxsize=None)(lambda name: Config.fromfile(root / 'configs' / name).to_dict())
    return lambda name=DETECTOR: Config(read(name))


@pytest.mark.parametrize('option', MISSPELT)
def test_an_option_that_nothing_takes_is_named(load, option):
    with pytest.raises(SetupError) as raised:
        merge_options(load(), {option: 1})
    assert re.fullmatch(f'--cfg-options {option}.* {MISSPELT[option]}', str(raised.value))


def test_options_that_something_takes_pass(load):
    for option, value in TAKEN.items():
        if not option.startswith('optim_wrapper.loss') and not option.startswith('default_hooks.ema.m'):
            cfg = load()
            merge_options(cfg, {option: value})
            check_arguments(cfg)
    cfg = load()
    merge_options(cfg, dict(TAKEN))
    check_arguments(cfg)
    assert cfg.optim_wrapper.loss_scale == 'dynamic' and cfg.default_hooks.ema.momentum == 0.1
    assert cfg.model.backbone.norm_cfg.type == 'GN' and cfg.train_dataloader.dataset.pipeline[1].poly2mask is False


def test_options_that_exclude_each_other(load):
    with pytest.raises(SetupError, match='^--cfg-options model.neck and model.neck.type exclude each other; leave one out$'):
        merge_options(load(), {'model.neck': None, 'model.neck.type': 'FPN'})


def test_another_type_is_asked_for_its_own_arguments(load):
    cfg = load()
    merge_options(cfg, {'model.backbone.type': 'hybrid_mm.SeTformer', 'model.backbone.eps': 0.1})
    check_arguments(cfg)
    with pytest.raises(SetupError, match='^--cfg-options model.backbone.head_dim is unknown to hybrid_mm.HATNet; choose from '):
        merge_options(load(), {'model.backbone.type': 'hybrid_mm.HATNet', 'model.backbone.head_dim': 0.1})
    cfg = load()
    merge_options(cfg, {'model.backbone._delete_': True, 'model.backbone.type': 'ResNet', 'model.backbone.depth': 50})
    check_arguments(cfg)
    assert cfg.model.backbone == dict(type='ResNet', depth=50)


@pytest.mark.parametrize('change, message', [
    (dict(model=dict(backbone=dict(drop_path_rat=0.1))),
     r'model\.backbone\.drop_path_rat in a\.py is unknown to hybrid_mm\.TransCNN; the nearest is drop_path_rate'),
    (dict(model=dict(backbone=dict(type='hybrid_mm.TransCN'))),
     r'model\.backbone\.type in a\.py is unknown: there is no hybrid_mm\.TransCN; the nearest is hybrid_mm\.TransCNN'),
    (dict(model=dict(backbone=dict(type='hybrid_mm.backbones.TransCNN', depht=1))),
     r'model\.backbone\.depht in a\.py is unknown to hybrid_mm\.backbones\.TransCNN; choose from arch, .*'),
    (dict(custom_hooks=[dict(type='hybrid_mm.VariableSizeHook', size=[1])]),
     r'custom_hooks\.0\.size in a\.py is unknown to hybrid_mm\.VariableSizeHook; the nearest is sizes'),
    (dict(custom_hooks=[dict(type='hybrid_mm.WeightAverageHook', momentm=0.1)]),
     r'custom_hooks\.0\.momentm in a\.py is unknown to hybrid_mm\.WeightAverageHook; the nearest is momentum'),
    (dict(default_hooks=dict(checkpoint=dict(intervall=1))),
     r'default_hooks\.checkpoint\.intervall in a\.py is unknown to hybrid_mm\.CheckpointHook; the nearest is interval'),
    (dict(default_hooks=dict(chekpoint=dict(interval=1))),
     r'default_hooks\.chekpoint in a\.py is unknown to default_hooks; the nearest is checkpoint'),
    (dict(train_dataloader=dict(num_worker=1)),
     r'train_dataloader\.num_worker in a\.py is unknown to train_dataloader; the nearest is num_workers'),
    (dict(model=dict(backbone=dict(init_cfg=dict(type='hybrid_mm.Released', checkpoints='a')))),
     r'model\.backbone\.init_cfg\.checkpoints in a\.py is unknown to hybrid_mm\.Released; the nearest is checkpoint'),
    (dict(model=dict(neck=dict(type='hybrid_mm.PooledVector', _delete_=True, drop=0.1))),
     r'model\.neck\.drop in a\.py is unknown to hybrid_mm\.PooledVector; the nearest is dropout'),
    (dict(model=dict(backbone=dict(type='ResNet', _delete_=True, depth=50, plugins=[
        dict(cfg=dict(type='hybrid_mm.HMHSA', gridsize=8, postfix='_8'), position='after_conv2')]))),
     r'model\.backbone\.plugins\.0\.cfg\.gridsize in a\.py is unknown to hybrid_mm\.HMHSA; the nearest is grid_size'),
    (dict(model=dict(backbone=dict(type='hybrid_mm.WithParC', _delete_=True, backbone=dict(type='ResNet'), selects=[]))),
     r'model\.backbone\.selects in a\.py is unknown to hybrid_mm\.WithParC; the nearest is select'),
])
def test_an_argument_that_a_type_of_ours_does_not_take_is_named(load, change, message):
    cfg = load()
    cfg.merge_from_dict(change)
    with pytest.raises(SetupError) as raised:
        check_arguments(cfg, 'a.py')
    assert re.fullmatch(message, str(raised.value))


def test_what_registries_take_out_of_a_dict_is_no_argument(load):
    cfg = load()
    cfg.merge_from_dict(dict(custom_hooks=[dict(type='hybrid_mm.CheckSetupHook', priority='LOW')], model=dict(backbone=dict(
        norm_cfg=dict(type='hybrid_mm.LN2d', eps=1e-6, requires_grad=False),
        init_cfg=dict(type='hybrid_mm.Released', checkpoint='a.pth', _delete_=True, override=dict(name='a'))))))
    check_arguments(cfg)


@pytest.mark.parametrize('name', [DETECTOR, CLASSIFIER])
def test_nearly_every_slip_in_an_option_is_found(load, name):
    """A letter dropped, doubled or swapped with the next in the last word of a path of the config."""
    rng = random.Random(0)
    values = load(name).to_dict()
    paths = ['.'.join(path) for path, _ in walk(values)
             if len(path) > 1 and path[0] in config_keys() and not path[-1].isdigit() and len(path[-1]) >= 5]
    found, missed = 0, []
    for path in rng.sample(paths, 60):
        parent, _, key = path.rpartition('.')
        i = rng.randrange(len(key) - 1)
        slip = rng.choice([key[:i] + key[i + 1:], key[:i + 1] + key[i:], key[:i] + key[i + 1] + key[i] + key[i + 2:]])
        if slip == key:
            continue
        try:
            merge_options(Config(values), {f'{parent}.{slip}': 1})
            missed.append(f'{parent}.{slip}')
        except SetupError:
            found += 1
    assert len(missed) <= found // 20, missed


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
@pytest.mark.parametrize('step', [40, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_no_config_of_the_libraries_raises_an_alarm(library, step):
    folder = Path(importlib.util.find_spec(library).origin).parent / '.mim' / 'configs'
    if not folder.is_dir():
        pytest.skip(f'{library} is installed without its configs')
    read = 0
    for path in sorted(folder.rglob('*.py'))[::step]:
        try:
            cfg = Config.fromfile(path, import_custom_modules=False)
        except (OSError, KeyError, RuntimeError):  # ten that mmengine does not read either
            continue
        read += 1
        check_keys(cfg, str(path))
        check_arguments(cfg, str(path))
    assert read >= 750 // step
