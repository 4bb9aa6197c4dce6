"""Every shipped config: it loads, its model builds and fits together, and its data can be read."""
import inspect
import itertools
from pathlib import Path
from unittest import mock

import pytest
import torch
from configs.shipped import (
    BASELINES,
    CONFIGS,
    FILES,
    GLITS,
    LEAVES,
    OLD,
    PARC,
    PARC_SETTINGS,
    PUBLISHED,
    REAL,
    RELEASES,
    SETFORMER_SETTINGS,
    SETFORMERS,
    SETTINGS,
    SHAPES,
    build,
    class_names,
    flatten,
    for_each,
    load,
    read,
    registered,
    stages,
)
from mmengine import Config
from mmengine.registry import DATA_SAMPLERS, DATASETS, HOOKS, METRICS, TRANSFORMS, VISUALIZERS, DefaultScope

import hybrid_mm
from hybrid_mm.data.drawing import CLASSES
from hybrid_mm.data.shapes import make_shapes

WITH_BASELINES = [*PARC, *(f'{network}_baseline' for network in BASELINES)]
SETTINGS_OF = [(RELEASES, SETTINGS), (WITH_BASELINES, PARC_SETTINGS), (SETFORMERS, SETFORMER_SETTINGS), (GLITS, SETTINGS)]
NO_MATTER_OF_SIZE = ('init_cfg', 'norm_cfg', 'norm_eval', 'frozen_stages', 'drop_path_rate')
IMAGE, MAPS, CHECKED = torch.empty(1, 3, 64, 64, device='meta'), {}, set()
NETWORKS_WITH_SETTINGS = {setting.format(network) for pair in SETTINGS_OF for network, setting in itertools.product(*pair)}


# ---- the tree ----


def test_file_names_are_unique_in_the_whole_tree_but_for_the_old_ones():
    names = sorted(path.name for path in FILES)

    assert names == sorted(set(names))


def test_every_network_has_every_setting():
    assert NETWORKS_WITH_SETTINGS <= set(PUBLISHED)


def test_old_names_in_the_root_are_frozen_and_lead_to_the_folder_of_the_family():
    assert {path.name for path in OLD} == NETWORKS_WITH_SETTINGS
    folders = {path.name: f"_base_ = '{path.relative_to(CONFIGS)}'" for path in FILES}
    assert not [path.name for path in OLD if path.read_text().splitlines()[1:] != [folders[path.name]]]


@for_each(path=OLD)
def test_config_of_an_old_name_says_the_same(path):
    assert read(path).to_dict() == load(path.name).to_dict()


@for_each(path=FILES)
def test_config_stands_on_our_own_bases(path):
    assert 'custom_imports' not in path.read_text()
    for base in Config._get_base_files(str(path)):
        assert '::' not in base
        assert (path.parent / base).resolve() in FILES


@for_each(name=PUBLISHED)
def test_published_setting_holds_only_what_differs(name):
    assert len(Path(hybrid_mm.config_path(name)).read_text().splitlines()) <= 25


@for_each(path=FILES)
def test_config_path_finds_the_config_by_its_name_and_by_its_path(path):
    assert hybrid_mm.config_path(path.name) == hybrid_mm.config_path(str(path.relative_to(CONFIGS))) == str(path)


def test_dump_of_a_config_says_the_same(monkeypatch):

    def compare(name):
        dump = {}
        exec(load(name).pretty_text, dump)
        del dump['__builtins__']
        assert flatten(dump) == flatten(load(name).to_dict())

    for_each(name=['maskrcnn_parc_r50_shapes.py', 'upernet_transcnn_b.py', 'imagenet_glit_t.py'])(compare)()
    # most of the time goes into a layout that is easy to read
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **kwargs: (text, True), raising=False)  # not the fork's
    for_each(name=LEAVES)(compare)()


@pytest.mark.parametrize('name', ['maskrcnn_transcnn_xl.py', 'transcnn/maskrcnn_transcnn_xl.py', ''])
def test_config_path_names_the_choices_for_an_unknown_config(name):
    with pytest.raises(FileNotFoundError, match=f"'{name}'; choose from .*transcnn/maskrcnn_transcnn_b.py"):
        hybrid_mm.config_path(name)


# ---- models ----


@for_each(name=LEAVES)
@torch.no_grad()
def test_model_fits_together(name):
    model, backbone = build(name).eval(), load(name).model.backbone
    # models of a network share its maps: these options of their backbones differ and do not change sizes
    key = str(sorted((name, value) for name, value in backbone.items() if name not in NO_MATTER_OF_SIZE))
    if key not in MAPS:
        MAPS[key] = model.backbone(IMAGE)
        channels = tuple(found.shape[1] for found in MAPS[key])
        assert channels == getattr(model.backbone, 'out_channels', channels)  # which the libraries' own do not have
    of_data = (id(model), len(class_names(name)))  # schedules share models
    if of_data not in CHECKED:
        with mock.patch.object(model.backbone, 'forward', return_value=MAPS[key]):
            check_parts(model, load(name).default_scope, len(class_names(name)))
        CHECKED.add(of_data)


def check_parts(model, scope, num_classes):
    if scope == 'mmdet':
        channels = tuple(found.shape[1] for found in model.backbone(IMAGE))
        for neck in model.neck if isinstance(model.neck, torch.nn.Sequential) else [model.neck]:
            assert tuple(neck.in_channels) == channels
            channels = neck.out_channels
        maps = model.extract_feat(IMAGE)
        scores, deltas = model.rpn_head(maps)
        assert [score.shape[2:] for score in scores] == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
        assert [delta.shape[1] for delta in deltas] == [4 * model.rpn_head.num_base_priors] * 5
        head = model.roi_head
        box_regions, mask_regions = (torch.empty(2, maps[0].shape[1], size, size, device='meta') for size in (7, 14))
        of_masks = [*stages(head.mask_roi_extractor)] if head.with_mask else []
        for extractor in (*stages(head.bbox_roi_extractor), *of_masks):
            assert extractor.out_channels == maps[0].shape[1]
        for bbox_head in stages(head.bbox_head):
            class_scores, boxes = bbox_head(box_regions)
            assert class_scores.shape == (2, num_classes + 1)
            assert boxes.shape == (2, 4 if bbox_head.reg_class_agnostic else num_classes * 4)
        for mask_head in stages(head.mask_head) if head.with_mask else ():
            assert mask_head(mask_regions).shape == (2, num_classes, 28, 28)
    elif scope == 'mmseg':
        maps = model.extract_feat(IMAGE)
        channels = tuple(found.shape[1] for found in model.backbone(IMAGE))
        assert not model.with_neck or model.neck.in_channels == channels == model.neck.out_channels
        assert tuple(model.decode_head.in_channels) == channels
        assert model.decode_head(maps).shape == (1, num_classes, 16, 16)
        assert model.auxiliary_head.in_channels == channels[2]
        assert model.auxiliary_head(maps).shape == (1, num_classes, 4, 4)
    else:
        assert model(IMAGE, mode='tensor').shape == (1, num_classes)


@for_each(name=[*(name for name in PUBLISHED if name.startswith('imagenet_')), *SHAPES, *REAL])
def test_other_config_starts_from_random_weights(name):
    for initializer in load(name).model.backbone.get('init_cfg', []):
        assert initializer.type == 'Xavier'


# ---- data ----


@for_each(name=LEAVES)
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


@for_each(name=LEAVES)
def test_images_are_normalised_as_the_release_expects(name):
    cfg = load(name)
    preprocessor = cfg.get('data_preprocessor') or cfg.model.data_preprocessor
    to_rgb = preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb')

    if 'parcnet' in name and name not in REAL:  # which start from random weights, all in one way
        assert (preprocessor.mean, preprocessor.std) == ([0.] * 3, [255.] * 3) and not to_rgb
    else:
        assert preprocessor.mean == [123.675, 116.28, 103.53]
        assert preprocessor.std == [58.395, 57.12, 57.375]
        assert to_rgb


def test_shapes_have_the_classes_and_the_size_that_the_script_makes():
    height, width = inspect.signature(make_shapes).parameters['size'].default

    assert tuple(class_names('maskrcnn_transcnn_s_shapes.py')) == CLASSES
    assert tuple(class_names('upernet_transcnn_s_shapes.py')) == ('background', *CLASSES)
    assert load('maskrcnn_transcnn_s_shapes.py').shapes_size == (width, height)
