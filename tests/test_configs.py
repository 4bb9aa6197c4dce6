"""Every shipped config: it loads, its model builds and fits together, its data can be read, and it holds its recipe."""
import copy
import importlib.util
import inspect
import itertools
import sys
from functools import lru_cache
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmengine import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (DATA_SAMPLERS, DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS, VISUALIZERS, DefaultScope)
from torch.nn.modules.batchnorm import _BatchNorm

import hybrid_mm

CLONE = Path(__file__).resolve().parents[1]
CONFIGS = CLONE / 'configs'
FILES = sorted(CONFIGS.rglob('*.py'))
LEAVES = [path.name for path in FILES if '_base_' not in path.parts]
PUBLISHED = [name for name in LEAVES if (CONFIGS / name).is_file()]

TRANSCNN = 'https://github.com/yun-liu/TransCNN/releases/download/v1.0/TransCNN-{}.pth'
HATNET = 'https://github.com/yun-liu/HAT-Net/releases/download/v2.0/HAT-Net_{}.pth'
RELEASES = {  # arch, and the authors' file of that size: the paper's names in TransCNN differ from the release's
    'transcnn_s': ('small', TRANSCNN.format('Tiny')),
    'transcnn_b': ('base', TRANSCNN.format('Small')),
    'transcnn_m': ('medium', TRANSCNN.format('Medium')),
    'transcnn_l': ('large', TRANSCNN.format('Large')),
    'hatnet_t': ('tiny', HATNET.format('Tiny')),
    'hatnet_s': ('small', HATNET.format('Small')),
    'hatnet_m': ('medium', HATNET.format('Medium')),
    'hatnet_l': ('large', HATNET.format('Large')),
}
NETWORKS = list(RELEASES)
DENSE = ['maskrcnn_{}.py', 'maskrcnn_{}_3x.py', 'upernet_{}.py']
SETTINGS = [*DENSE, 'imagenet_{}.py']


@lru_cache(maxsize=None)
def load(name):
    """A config, read once; copy it before a change."""
    return Config.fromfile(hybrid_mm.config_path(name))


def build(name):
    """The model of a config, its data preprocessor included as the Runner does, without memory for its weights."""
    cfg = load(name)
    model = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        return MODELS.build(model)


def registered(registry, scope, name):
    with registry.switch_scope_and_registry(scope) as scoped:
        return scoped.get(name)


def class_names(name):
    """Names of the classes of a config's training data."""
    cfg = load(name)
    dataset = cfg.train_dataloader.dataset
    if 'metainfo' in dataset:
        return dataset.metainfo.classes
    return registered(DATASETS, cfg.default_scope, dataset.type).METAINFO['classes']


def flatten(value, prefix=''):
    """Values of a nested config by dotted name, tuples as lists; None says the same as a missing key."""
    if isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list, tuple)) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        parts = [flatten(item, f'{prefix}.{key}') for key, item in value.items()]
        return dict(item for part in parts for item in part.items())
    return {} if value is None else {prefix: list(value) if isinstance(value, tuple) else value}


def assert_same(ours, stock, keys):
    """The named parts of two configs are equal, but for what our pipelines leave to the data set."""
    for key in keys:
        expected = flatten(stock[key], key)
        expected = {name: value for name, value in expected.items() if not name.endswith('.reduce_zero_label')}
        assert flatten(ours[key], key) == expected


# ---- the tree ----


def test_file_names_are_unique_in_the_whole_tree():
    names = sorted(path.name for path in FILES)

    assert names == sorted(set(names))


def test_every_network_has_every_setting():
    assert {setting.format(network) for network, setting in itertools.product(NETWORKS, SETTINGS)} <= set(PUBLISHED)


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
def test_config_stands_on_our_own_bases(path):
    assert 'custom_imports' not in path.read_text()
    for base in Config._get_base_files(str(path)):
        assert '::' not in base
        assert (path.parent / base).resolve().is_relative_to(CONFIGS)


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_setting_holds_only_what_differs(name):
    assert len((CONFIGS / name).read_text().splitlines()) <= 25


@pytest.mark.parametrize('name', LEAVES)
def test_config_path_finds_the_config(name):
    path = Path(hybrid_mm.config_path(name))

    assert path.is_absolute() and path.is_file() and path.name == name


@pytest.mark.parametrize('name', ['maskrcnn_transcnn_b_3x.py', 'upernet_transcnn_b.py', 'imagenet_transcnn_b.py',
                                  'maskrcnn_transcnn_s_shapes.py', 'upernet_transcnn_s_shapes.py'])
def test_dump_of_a_config_says_the_same(name):
    dump = Config.fromstring(load(name).pretty_text, '.py')

    assert flatten(dump.to_dict()) == flatten(load(name).to_dict())


def test_config_path_names_the_choices_for_an_unknown_config():
    with pytest.raises(FileNotFoundError, match="'maskrcnn_transcnn_xl.py'; choose from .*maskrcnn_transcnn_b.py"):
        hybrid_mm.config_path('maskrcnn_transcnn_xl.py')


# ---- models ----


@pytest.mark.parametrize('name', LEAVES)
@torch.no_grad()
def test_model_fits_together(name):
    model, scope, num_classes = build(name).eval(), load(name).default_scope, len(class_names(name))
    image = torch.empty(1, 3, 64, 64, device='meta')

    if scope == 'mmdet':
        assert tuple(model.neck.in_channels) == model.backbone.out_channels
        maps = model.extract_feat(image)
        scores, deltas = model.rpn_head(maps)
        assert [score.shape[2:] for score in scores] == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
        assert [delta.shape[1] for delta in deltas] == [4 * model.rpn_head.num_base_priors] * 5
        for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
            assert extractor.out_channels == maps[0].shape[1]
        box_regions, mask_regions = (torch.empty(2, maps[0].shape[1], size, size, device='meta') for size in (7, 14))
        class_scores, boxes = model.roi_head.bbox_head(box_regions)
        assert class_scores.shape == (2, num_classes + 1)
        boxes_of = 1 if model.roi_head.bbox_head.reg_class_agnostic else num_classes
        assert boxes.shape == (2, boxes_of * 4)
        assert model.roi_head.mask_head(mask_regions).shape == (2, num_classes, 28, 28)
    elif scope == 'mmseg':
        maps = model.extract_feat(image)
        assert tuple(model.decode_head.in_channels) == model.backbone.out_channels
        assert model.decode_head(maps).shape == (1, num_classes, 16, 16)
        assert model.auxiliary_head.in_channels == model.backbone.out_channels[2]
        assert model.auxiliary_head(maps).shape == (1, num_classes, 4, 4)
    else:
        assert model(image, mode='tensor').shape == (1, num_classes)


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('setting', DENSE)
def test_dense_config_starts_from_the_release_of_its_arch(setting, network):
    arch, release = RELEASES[network]
    backbone = load(setting.format(network)).model.backbone

    assert backbone.arch == arch
    assert backbone.init_cfg == dict(type='hybrid_mm.Released', checkpoint=release)


@pytest.mark.parametrize('name', [*(f'imagenet_{network}.py' for network in NETWORKS),
                                  'maskrcnn_transcnn_s_shapes.py', 'upernet_transcnn_s_shapes.py'])
def test_other_config_starts_from_random_weights(name):
    assert 'init_cfg' not in load(name).model.backbone


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('setting', SETTINGS)
def test_larger_half_of_the_networks_drops_more_paths(setting, network):
    backbone = load(setting.format(network)).model.backbone

    assert backbone.drop_path_rate == (0.3 if network[-1] in 'ml' else 0.1)


@pytest.mark.parametrize('name', ['maskrcnn_transcnn_s.py', 'maskrcnn_transcnn_s_3x.py'])
def test_batch_norm_of_a_detector_keeps_its_statistics(name):
    backbone = build(name).train().backbone
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]

    assert norms and not any(norm.training for norm in norms)


def test_batch_norm_of_a_segmentor_is_synchronised():
    norms = [module for module in build('upernet_transcnn_s.py').backbone.modules() if isinstance(module, _BatchNorm)]

    assert norms and all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize('setting', SETTINGS)
def test_hatnet_keeps_its_group_norm(setting):
    backbone = build(setting.format('hatnet_t')).backbone

    assert not any(isinstance(module, _BatchNorm) for module in backbone.modules())


# ---- data ----


@pytest.mark.parametrize('name', LEAVES)
def test_data_and_hooks_are_known_to_the_library(name):
    cfg = load(name)
    scope = cfg.default_scope
    with DefaultScope.overwrite_default_scope(scope):
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            assert registered(DATASETS, scope, loader.dataset.type)
            assert registered(DATA_SAMPLERS, scope, loader.sampler.type)
            for transform in loader.dataset.pipeline:
                TRANSFORMS.build(transform)
        for transform in cfg.get('tta_pipeline', []):
            TRANSFORMS.build(transform)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        assert registered(METRICS, scope, evaluator.type)
    for hook in (*cfg.default_hooks.values(), *cfg.custom_hooks):
        assert registered(HOOKS, scope, hook.type)
    assert registered(VISUALIZERS, scope, cfg.visualizer.type)
    assert cfg.custom_hooks[0].type == 'hybrid_mm.CheckSetupHook'


@pytest.mark.parametrize('name', LEAVES)
def test_images_are_normalised_as_the_release_expects(name):
    cfg = load(name)
    preprocessor = cfg.get('data_preprocessor') or cfg.model.data_preprocessor

    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.std == [58.395, 57.12, 57.375]
    assert preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb')


def test_shapes_have_the_classes_and_the_size_that_the_script_makes(monkeypatch):
    spec = importlib.util.spec_from_file_location('make_shapes', CLONE / 'tools' / 'datasets' / 'make_shapes.py')
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)
    height, width = inspect.signature(script.make_shapes).parameters['size'].default

    assert tuple(class_names('maskrcnn_transcnn_s_shapes.py')) == script.CLASSES
    assert tuple(class_names('upernet_transcnn_s_shapes.py')) == ('background', *script.CLASSES)
    assert load('maskrcnn_transcnn_s_shapes.py').shapes_size == (width, height)


# ---- recipes ----

STOCK_PARTS = [
    'train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator', 'param_scheduler',
    'train_cfg', 'val_cfg', 'test_cfg', 'default_hooks', 'env_cfg', 'visualizer', 'log_processor'
]


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


@pytest.mark.parametrize('network', NETWORKS)
def test_1x_trains_12_epochs_at_a_single_scale(network):
    cfg = load(f'maskrcnn_{network}.py')
    resizes = [step for step in cfg.train_dataloader.dataset.pipeline if 'Resize' in step.type]

    assert resizes == [dict(type='Resize', scale=(1333, 800), keep_ratio=True)]
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.param_scheduler[1].milestones == [8, 11]


@pytest.mark.parametrize('network', NETWORKS)
def test_3x_trains_36_epochs_at_several_scales_with_crops(network):
    cfg = load(f'maskrcnn_{network}_3x.py')
    choice, = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomChoice']
    whole, cropped = choice.transforms

    assert [step.type for step in whole] == ['RandomChoiceResize']
    assert whole[0].scales == [(side, 1333) for side in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]
    assert [step.type for step in cropped] == ['RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize']
    assert cropped[1].crop_size == (384, 600)
    assert cfg.train_cfg.max_epochs == 36
    assert cfg.param_scheduler[1].milestones == [27, 33]


@pytest.mark.parametrize('network', NETWORKS)
def test_segmentor_trains_160k_iterations_on_512_pixels(network):
    cfg = load(f'upernet_{network}.py')
    crop, = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop']

    assert crop.crop_size == cfg.model.data_preprocessor.size == (512, 512)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 160000
    assert cfg.model.test_cfg.mode == 'whole'


@pytest.mark.parametrize('network', NETWORKS)
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


@pytest.mark.parametrize('name', [setting.format('transcnn_s') for setting in SETTINGS])
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
