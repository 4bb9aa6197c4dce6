"""Every shipped config: it loads, its model builds and fits together, and its data can be read."""
import importlib.util
import inspect
import itertools
import sys
from pathlib import Path

import pytest
import torch
from configs.shipped import (BASELINES, CLONE, CONFIGS, FILES, GLITS, LEAVES, PARC, PARC_SETTINGS, PUBLISHED, RELEASES,
                             SETFORMERS, SETFORMER_SETTINGS, SETTINGS, SHAPES, build, class_names, flatten, load,
                             registered, stages)
from mmengine import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, TRANSFORMS, VISUALIZERS, DefaultScope

import hybrid_mm


# ---- the tree ----


def test_file_names_are_unique_in_the_whole_tree():
    names = sorted(path.name for path in FILES)

    assert names == sorted(set(names))


def test_every_network_has_every_setting():
    with_baselines = [*PARC, *(f'{network}_baseline' for network in BASELINES)]

    assert {setting.format(network) for network, setting in itertools.product(RELEASES, SETTINGS)} <= set(PUBLISHED)
    assert {setting.format(network) for network, setting in itertools.product(with_baselines, PARC_SETTINGS)} <= set(PUBLISHED)
    assert {setting.format(network) for network, setting in itertools.product(SETFORMERS, SETFORMER_SETTINGS)} <= set(PUBLISHED)
    assert {setting.format(network) for network, setting in itertools.product(GLITS, SETTINGS)} <= set(PUBLISHED)


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
                                  'cascade_maskrcnn_parc_r50_baseline_3x.py', 'upernet_parc_convnext_xt.py',
                                  'imagenet_parcnet_s.py', 'maskrcnn_glit_s_3x.py', 'upernet_glit_b.py', 'imagenet_glit_t.py',
                                  *SHAPES])
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
        channels = model.backbone.out_channels
        for neck in model.neck if isinstance(model.neck, torch.nn.Sequential) else [model.neck]:
            assert tuple(neck.in_channels) == channels
            channels = neck.out_channels
        maps = model.extract_feat(image)
        scores, deltas = model.rpn_head(maps)
        assert [score.shape[2:] for score in scores] == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
        assert [delta.shape[1] for delta in deltas] == [4 * model.rpn_head.num_base_priors] * 5
        head = model.roi_head
        box_regions, mask_regions = (torch.empty(2, maps[0].shape[1], size, size, device='meta') for size in (7, 14))
        for extractor in (*stages(head.bbox_roi_extractor), *stages(head.mask_roi_extractor)):
            assert extractor.out_channels == maps[0].shape[1]
        for bbox_head in stages(head.bbox_head):
            class_scores, boxes = bbox_head(box_regions)
            assert class_scores.shape == (2, num_classes + 1)
            assert boxes.shape == (2, 4 if bbox_head.reg_class_agnostic else num_classes * 4)
        for mask_head in stages(head.mask_head):
            assert mask_head(mask_regions).shape == (2, num_classes, 28, 28)
    elif scope == 'mmseg':
        maps = model.extract_feat(image)
        assert not model.with_neck or model.neck.in_channels == model.backbone.out_channels == model.neck.out_channels
        assert tuple(model.decode_head.in_channels) == model.backbone.out_channels
        assert model.decode_head(maps).shape == (1, num_classes, 16, 16)
        assert model.auxiliary_head.in_channels == model.backbone.out_channels[2]
        assert model.auxiliary_head(maps).shape == (1, num_classes, 4, 4)
    else:
        assert model(image, mode='tensor').shape == (1, num_classes)


@pytest.mark.parametrize('name', [*(name for name in PUBLISHED if name.startswith('imagenet_')), *SHAPES])
def test_other_config_starts_from_random_weights(name):
    for initializer in load(name).model.backbone.get('init_cfg', []):
        assert initializer.type == 'Xavier'


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
    to_rgb = preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb')

    if 'parcnet' in name:
        assert (preprocessor.mean, preprocessor.std) == ([0.] * 3, [255.] * 3) and not to_rgb
    else:
        assert preprocessor.mean == [123.675, 116.28, 103.53]
        assert preprocessor.std == [58.395, 57.12, 57.375]
        assert to_rgb


def test_shapes_have_the_classes_and_the_size_that_the_script_makes(monkeypatch):
    spec = importlib.util.spec_from_file_location('make_shapes', CLONE / 'tools' / 'datasets' / 'make_shapes.py')
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)
    spec.loader.exec_module(script)
    height, width = inspect.signature(script.make_shapes).parameters['size'].default

    assert tuple(class_names('maskrcnn_transcnn_s_shapes.py')) == script.CLASSES
    assert tuple(class_names('upernet_transcnn_s_shapes.py')) == ('background', *script.CLASSES)
    assert load('maskrcnn_transcnn_s_shapes.py').shapes_size == (width, height)
