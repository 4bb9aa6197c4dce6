"""Recipes in the configs of ParC: those of the libraries for ConvNeXt, and those of the authors."""
from pathlib import Path

import mmdet
import mmpretrain
import mmseg
import pytest
from configs.shipped import (
    CONVNETS,
    CONVNEXTS,
    PARC,
    PARCNETS,
    PUBLISHED,
    STOCK_PARTS,
    assert_same,
    for_each,
    load,
    weight_decays,
)
from mmengine import Config
from mmengine.registry import HOOKS, DefaultScope


def test_cascade_follows_mmdetection():
    stock = Path(mmdet.__file__).parent / '.mim' / 'configs' / 'convnext'
    ours = load('cascade_maskrcnn_parc_convnext_t_3x.py')
    theirs = Config.fromfile(stock / 'cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py')

    assert_same(ours, theirs, [key for key in (*STOCK_PARTS, 'auto_scale_lr') if key != 'param_scheduler'])
    assert_same(ours.optim_wrapper, theirs.optim_wrapper, ['optimizer'])
    assert_same(ours.model, theirs.model, [key for key in theirs.model if key not in ('backbone', 'neck')])
    assert_same(ours.model.neck, theirs.model.neck, [*theirs.model.neck])
    assert ours.model.backbone.drop_path_rate == theirs.model.backbone.drop_path_rate
    assert ours.optim_wrapper.paramwise_cfg.items() >= theirs.optim_wrapper.paramwise_cfg.items()


def test_segmentor_of_convnext_follows_mmsegmentation():
    stock = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'convnext'
    ours = load('upernet_parc_convnext_t.py')
    theirs = Config.fromfile(stock / 'convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py')

    assert_same(ours, theirs, [*STOCK_PARTS, 'tta_model', 'tta_pipeline'])
    assert_same(ours.optim_wrapper, theirs.optim_wrapper, ['optimizer'])
    assert_same(ours.model, theirs.model, ['data_preprocessor', 'test_cfg', 'decode_head', 'auxiliary_head'])
    assert ours.model.backbone.drop_path_rate == theirs.model.backbone.drop_path_rate
    assert ours.optim_wrapper.paramwise_cfg.items() >= theirs.optim_wrapper.paramwise_cfg.items()


def test_classifier_of_convnext_follows_mmpretrain():
    stock = Path(mmpretrain.__file__).parent / '.mim' / 'configs' / 'convnext'
    ours, theirs = load('imagenet_parc_convnext_t.py'), Config.fromfile(stock / 'convnext-tiny_32xb128_in1k.py')

    for loader in ('train_dataloader', 'val_dataloader'):
        assert_same(ours[loader], theirs[loader], ['sampler', 'dataset'])
    assert_same(ours, theirs, ['data_preprocessor', 'val_evaluator', 'train_cfg', 'val_cfg', 'test_cfg'])
    assert_same(ours.model, theirs.model, ['train_cfg'])
    assert_same(ours.model.head, theirs.model.head, ['type', 'num_classes', 'in_channels', 'loss'])
    assert ours.optim_wrapper.optimizer == theirs.optim_wrapper.optimizer
    assert ours.auto_scale_lr.base_batch_size * ours.optim_wrapper.accumulative_counts == \
        theirs.auto_scale_lr.base_batch_size
    assert ours.custom_hooks[-1].momentum == theirs.custom_hooks[0].momentum


@for_each(network=PARC, setting=['maskrcnn_{}.py', 'cascade_maskrcnn_{}_3x.py'])
def test_detector_of_parc_follows_the_authors(setting, network):
    epochs, steps = (36, [27, 33]) if '3x' in setting else (12, [8, 11])
    cfg = load(setting.format(network))
    warm_up, decay = cfg.param_scheduler
    train = [step.type for step in cfg.train_dataloader.dataset.pipeline]

    assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=2e-4, betas=(0.9, 0.999), weight_decay=0.05)
    assert (warm_up.start_factor, warm_up.begin, warm_up.end, warm_up.by_epoch) == (0.001, 0, 500, False)
    assert (decay.milestones, decay.gamma, decay.end, cfg.train_cfg.max_epochs) == (steps, 0.1, epochs, epochs)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert ('RandomChoice' in train) == (epochs == 36)
    assert cfg.optim_wrapper.get('constructor') == (
        'hybrid_mm.LayerDecayOptimizerConstructor' if network in CONVNEXTS else None)
    if network in CONVNEXTS:
        paramwise = cfg.optim_wrapper.paramwise_cfg
        assert (paramwise.decay_rate, paramwise.decay_type, paramwise.num_layers) == (0.7, 'layer_wise', 6)


@for_each(network=PARC)
def test_segmentor_of_parc_follows_the_authors(network):
    cfg = load(f'upernet_{network}.py')
    warm_up, poly = cfg.param_scheduler
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}

    assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
    assert (warm_up.start_factor, warm_up.end, poly.power, poly.begin, poly.end) == (1e-6, 1500, 1., 1500, 160000)
    assert cfg.train_cfg.max_iters == 160000
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert steps['RandomResize'].scale == (2048, 512) and steps['RandomResize'].ratio_range == (0.5, 2.0)
    assert steps['RandomCrop'] == dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75)
    assert 'PhotoMetricDistortion' in steps
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    assert cfg.model.auxiliary_head.channels == 256 and cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert cfg.optim_wrapper.get('constructor') == (
        'hybrid_mm.LayerDecayOptimizerConstructor' if network in CONVNEXTS else None)
    if network in CONVNEXTS:
        paramwise = cfg.optim_wrapper.paramwise_cfg
        assert (paramwise.decay_rate, paramwise.decay_type, paramwise.num_layers) == (0.9, 'stage_wise', 6)


@for_each(network=CONVNETS)
def test_classifier_of_parc_follows_the_recipe_of_convnext(network):
    cfg = load(f'imagenet_{network}.py')
    warm_up, cosine = cfg.param_scheduler
    loader, optim_wrapper, ema = cfg.train_dataloader, cfg.optim_wrapper, cfg.custom_hooks[-1]
    train, test = ({step.type: step for step in part.dataset.pipeline} for part in (loader, cfg.test_dataloader))

    assert optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in optim_wrapper
    assert optim_wrapper.optimizer == dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    assert loader.batch_size * 8 * optim_wrapper.accumulative_counts == 4096
    assert loader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size  # what mmengine compares
    assert loader.sampler == dict(type='DefaultSampler', shuffle=True)
    assert (warm_up.end, cosine.begin, cosine.end, cosine.eta_min, cfg.train_cfg.max_epochs) == (20, 20, 300, 1e-6, 300)
    assert (ema.type, ema.momentum, ema.interval) == ('EMAHook', 1e-4, optim_wrapper.accumulative_counts)
    assert train['RandomResizedCrop'].scale == test['CenterCrop'].crop_size == 0.875 * test['ResizeEdge'].scale == 224
    assert (train['RandAugment'].magnitude_level, train['RandAugment'].magnitude_std) == (9, 0.5)
    assert train['RandomErasing'].erase_prob == 0.25
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert cfg.model.train_cfg.augments == [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]


@for_each(network=PARCNETS)
def test_classifier_of_parcnet_follows_its_authors(network):
    cfg = load(f'imagenet_{network}.py')
    warm_up, cosine = cfg.param_scheduler
    *_, ema, sizes = cfg.custom_hooks
    optimizer = cfg.optim_wrapper.optimizer
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}

    assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and 'paramwise_cfg' not in cfg.optim_wrapper
    assert (optimizer.type, optimizer.lr) == ('AdamW', 4e-3)
    assert optimizer.weight_decay == (0.05 if network == 'parcnet_h' else 0.025)
    assert warm_up.start_factor * optimizer.lr == pytest.approx(4e-4)
    assert (warm_up.by_epoch, warm_up.end, cosine.eta_min, cosine.end) == (False, 3000, 4e-4, 300)
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    assert [*steps] == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']
    assert steps['RandomResizedCrop'].scale == max(sizes.sizes)
    assert sizes == dict(type='hybrid_mm.VariableSizeHook', sizes=(160, 192, 256, 288, 320))
    assert (ema.type, ema.momentum) == ('EMAHook', 5e-4)
    assert cfg.model.head.loss.label_smooth_val == 0.1 and cfg.model.get('train_cfg') is None
    assert {crop.crop_size for crop in cfg.test_dataloader.dataset.pipeline if crop.type == 'CenterCrop'} == {256}


@for_each(name=['maskrcnn_parc_mbv2.py', 'cascade_maskrcnn_parc_convnext_xt_3x.py', 'upernet_parc_r50.py',
                'upernet_parc_convnext_xt.py', 'imagenet_parc_convnext_xt.py'])
def test_vectors_and_biases_are_free_of_weight_decay(name):
    for key, (parameter, decay) in weight_decays(name).items():
        assert decay == (0 if parameter.dim() == 1 or key.endswith('.bias') else 0.05), key


def test_weight_decay_of_parcnet_is_on_all_parameters_on_imagenet():
    assert {decay for _, decay in weight_decays('imagenet_parcnet_s.py').values()} == {0.025}


@for_each(name=[name for name in PUBLISHED if name.startswith('imagenet_parc')])
def test_average_of_the_weights_is_what_is_tested(name):
    cfg = load(name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        average = HOOKS.build(next(hook for hook in cfg.custom_hooks if 'EMA' in hook.type))

    assert average.evaluate_on_ema and not average.evaluate_on_origin
