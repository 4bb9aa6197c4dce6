"""Configs of TransCNN and HAT-Net: the releases they start from, and the recipes they follow."""
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from configs.shipped import DENSE, RELEASES, SETTINGS, STOCK_PARTS, assert_same, build, for_each, load
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from torch.nn.modules.batchnorm import _BatchNorm

# ---- models ----


@for_each(network=RELEASES, setting=DENSE)
def test_dense_config_starts_from_the_release_of_its_arch(setting, network):
    arch, release = RELEASES[network]
    backbone = load(setting.format(network)).model.backbone

    assert backbone.arch == arch
    assert backbone.init_cfg == dict(type='hybrid_mm.Released', checkpoint=release)


@for_each(network=RELEASES, setting=SETTINGS)
def test_larger_half_of_the_networks_drops_more_paths(setting, network):
    backbone = load(setting.format(network)).model.backbone

    assert backbone.drop_path_rate == (0.3 if network[-1] in 'ml' else 0.1)


@for_each(setting=SETTINGS)
def test_hatnet_keeps_its_group_norm(setting):
    backbone = build(setting.format('hatnet_t')).backbone

    assert not any(isinstance(module, _BatchNorm) for module in backbone.modules())


# ---- recipes ----


def test_detectors_follow_mmdetection():
    stock = Path(mmdet.__file__).parent / '.mim' / 'configs' / 'swin'
    for ours, theirs in (('maskrcnn_transcnn_b.py', 'mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
                         ('maskrcnn_transcnn_b_3x.py', 'mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py')):
        ours, theirs = load(ours), Config.fromfile(stock / theirs)
        assert_same(ours, theirs, [*STOCK_PARTS, 'auto_scale_lr'])
        assert_same(ours.optim_wrapper, theirs.optim_wrapper, ['type', 'optimizer'])
        assert_same(ours.model, theirs.model, [key for key in theirs.model if key not in ('backbone', 'neck')])


def test_segmentors_follow_mmsegmentation():
    stock = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'swin'
    ours = load('upernet_hatnet_t.py')
    theirs = Config.fromfile(stock / 'swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py')

    assert_same(ours, theirs, [*STOCK_PARTS, 'tta_model', 'tta_pipeline'])
    assert_same(ours.optim_wrapper, theirs.optim_wrapper, ['type', 'optimizer'])
    assert_same(ours.model, theirs.model, ['data_preprocessor', 'test_cfg'])
    for head in ('decode_head', 'auxiliary_head'):
        assert_same(*({head: dict(cfg.model[head], in_channels=None)} for cfg in (ours, theirs)), [head])


@for_each(network=RELEASES)
def test_classifier_follows_the_recipe_of_pvt(network):
    cfg = load(f'imagenet_{network}.py')
    size, edge = (256, 292) if network.startswith('transcnn') else (224, 256)
    train, test = ({step.type: step for step in loader.dataset.pipeline}
                   for loader in (cfg.train_dataloader, cfg.test_dataloader))

    assert train['RandomResizedCrop'].scale == test['CenterCrop'].crop_size == size
    assert test['ResizeEdge'].scale == edge
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.train_dataloader.sampler.type == 'RepeatAugSampler'
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    assert cfg.optim_wrapper.get('clip_grad') == (dict(max_norm=1.0) if network[-1] in 'ml' else None)
    warm_up, cosine = cfg.param_scheduler
    assert warm_up.start_factor * cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-6)
    assert warm_up.end == cosine.begin == 5
    assert cosine.eta_min == 1e-5


@for_each(name=[setting.format('transcnn_s') for setting in SETTINGS])
def test_norms_are_free_of_weight_decay(name):
    model = build(name)
    norms = {id(parameter) for module in model.modules() if isinstance(module, (_BatchNorm, torch.nn.GroupNorm))
             for parameter in module.parameters()}
    # mixed precision asks for a GPU and leaves the groups as they are
    optim_wrapper = build_optim_wrapper(model, dict(load(name).optim_wrapper, type='OptimWrapper'))
    groups = optim_wrapper.param_groups
    decays = [(group['weight_decay'], parameter) for group in groups for parameter in group['params']]
    weight_decay = load(name).optim_wrapper.optimizer.weight_decay

    assert {decay for decay, parameter in decays if id(parameter) in norms} == {0}
    assert {decay for decay, parameter in decays if parameter.dim() > 1} == {weight_decay}
