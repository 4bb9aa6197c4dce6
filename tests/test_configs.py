"""Every shipped config: it loads, its model builds and fits together, its data can be read, and it holds its recipe."""
import copy
import importlib.util
import inspect
import itertools
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import mmdet
import mmpretrain
import mmseg
import pytest
import torch
from mmengine import Config
from mmengine.optim import CosineAnnealingLR, build_optim_wrapper
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
PARC = {  # type, the option of the variant, and the checkpoint that dense tasks start from
    'parc_r50': ('ParCResNet', dict(depth=50), 'work_dirs/imagenet_parc_r50/epoch_300.pth'),
    'parc_mbv2': ('ParCMobileNetV2', dict(widen_factor=1.0), 'work_dirs/imagenet_parc_mbv2/epoch_300.pth'),
    'parc_convnext_xt': ('ParCConvNeXt', dict(arch='xtiny'), 'work_dirs/imagenet_parc_convnext_xt/epoch_300.pth'),
    'parc_convnext_t': ('ParCConvNeXt', dict(arch='tiny'), 'work_dirs/imagenet_parc_convnext_t/epoch_300.pth'),
    'parcnet_xs': ('ParCNet', dict(arch='xs'), 'work_dirs/imagenet_parcnet_xs/epoch_300.pth'),
    'parcnet_s': ('ParCNet', dict(arch='s'), 'checkpoints/parcnet_s/checkpoint_ema_avg.pt'),
    'parcnet_h': ('ParCNet', dict(arch='h'), 'work_dirs/imagenet_parcnet_h/epoch_300.pth'),
}
CONVNETS = [network for network in PARC if network.startswith('parc_')]
CONVNEXTS = [network for network in PARC if network.startswith('parc_convnext')]
PARCNETS = [network for network in PARC if network.startswith('parcnet')]
SETFORMERS = {  # arch, and the drop path rates on ImageNet, COCO and ADE20K
    'setformer_m': ('mini', 0.2, 0.2, 0.2),
    'setformer_t': ('tiny', 0.2, 0.2, 0.3),
    'setformer_s': ('small', 0.3, 0.35, 0.5),
    'setformer_b': ('base', 0.5, 0.5, 0.5),
}
GLITS = {  # arch, channels, the checkpoint that dense tasks start from, and parameters of the classifier
    'glit_t': ('tiny', 192, 'checkpoints/glit_tiny.pth.tar', 7264456),
    'glit_s': ('small', 360, 'work_dirs/imagenet_glit_s/epoch_310.pth', 24587020),
    'glit_b': ('base', 720, 'work_dirs/imagenet_glit_b/epoch_310.pth', 96174640),
}
BASELINES = ['parc_r50', 'parc_mbv2', 'parc_convnext_xt']  # networks that have one

DENSE = ['maskrcnn_{}.py', 'maskrcnn_{}_3x.py', 'upernet_{}.py']
SETTINGS = [*DENSE, 'imagenet_{}.py']
PARC_DENSE = ['maskrcnn_{}.py', 'cascade_maskrcnn_{}_3x.py', 'upernet_{}.py']
PARC_SETTINGS = [*PARC_DENSE, 'imagenet_{}.py']
SETFORMER_DENSE = ['maskrcnn_{}.py', 'maskrcnn_{}_3x.py', 'cascade_maskrcnn_{}_3x.py', 'upernet_{}.py']
SETFORMER_SETTINGS = [*SETFORMER_DENSE, 'imagenet_{}.py']
SHAPES = [name for name in LEAVES if name not in PUBLISHED]


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


def stages(part):
    """Parts of a RoI head by stage: of a cascade as they are, of a single stage in a list."""
    return part if isinstance(part, torch.nn.ModuleList) else [part]


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


@pytest.mark.parametrize('network', RELEASES)
@pytest.mark.parametrize('setting', DENSE)
def test_dense_config_starts_from_the_release_of_its_arch(setting, network):
    arch, release = RELEASES[network]
    backbone = load(setting.format(network)).model.backbone

    assert backbone.arch == arch
    assert backbone.init_cfg == dict(type='hybrid_mm.Released', checkpoint=release)


@pytest.mark.parametrize('name', [*(name for name in PUBLISHED if name.startswith('imagenet_')), *SHAPES])
def test_other_config_starts_from_random_weights(name):
    for initializer in load(name).model.backbone.get('init_cfg', []):
        assert initializer.type == 'Xavier'


@pytest.mark.parametrize('network', PARC)
@pytest.mark.parametrize('setting', PARC_DENSE)
def test_dense_config_of_parc_starts_from_a_file_of_the_user(setting, network):
    kind, variant, checkpoint = PARC[network]
    for name, path in ((network, checkpoint), (f'{network}_baseline', f'work_dirs/imagenet_{network}_baseline/epoch_300.pth')):
        if name == network or network in BASELINES:
            backbone = load(setting.format(name)).model.backbone
            assert backbone.type == f'hybrid_mm.{kind}'
            assert {key: backbone[key] for key in variant} == variant
            assert backbone.init_cfg == dict(type='hybrid_mm.Released', checkpoint=path)


@pytest.mark.parametrize('network', PARC)
def test_checkpoint_of_a_dense_config_is_the_last_one_of_our_imagenet_run(network):
    cfg = load(f'imagenet_{network}.py')

    if network != 'parcnet_s':  # the authors' file
        assert PARC[network][2] == f'work_dirs/imagenet_{network}/epoch_{cfg.train_cfg.max_epochs}.pth'
    assert cfg.default_hooks.checkpoint.get('by_epoch', True) and not cfg.get('work_dir')


def test_absent_checkpoint_stops_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='no checkpoint file work_dirs/imagenet_parc_mbv2/epoch_300.pth'):
        MODELS.build(load('maskrcnn_parc_mbv2.py').model.backbone).init_weights()


@pytest.mark.parametrize('network', ['parc_mbv2', 'parc_convnext_xt', 'parcnet_xs'])
def test_checkpoint_of_our_imagenet_run_starts_a_dense_config(network, tmp_path):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(copy.deepcopy(load(f'imagenet_{network}.py').model))
    file = tmp_path / 'epoch_300.pth'
    torch.save(dict(meta=dict(epoch=300), state_dict=classifier.state_dict(), ema_state_dict={}, optimizer={}), file)
    cfg = copy.deepcopy(load(f'cascade_maskrcnn_{network}_3x.py').model.backbone)
    cfg.init_cfg.checkpoint = str(file)
    backbone = MODELS.build(cfg)

    backbone.init_weights()

    trained, ours = classifier.backbone.state_dict(), backbone.state_dict()
    assert ours.keys() - trained.keys() == {key for key in ours if key.startswith('out_norms.')}
    assert all(torch.equal(trained[key], ours[key]) for key in trained)


@pytest.mark.parametrize('network', SETFORMERS)
@pytest.mark.parametrize('setting', SETFORMER_DENSE)
def test_dense_config_of_setformer_starts_from_our_imagenet_run(setting, network):
    backbone, imagenet = load(setting.format(network)).model.backbone, load(f'imagenet_{network}.py')

    assert (backbone.type, backbone.arch) == ('hybrid_mm.SeTformer', SETFORMERS[network][0])
    assert imagenet.model.backbone.arch == backbone.arch
    checkpoint = f'work_dirs/imagenet_{network}/epoch_{imagenet.train_cfg.max_epochs}.pth'
    assert backbone.init_cfg == dict(type='Pretrained', checkpoint=checkpoint, prefix='backbone.')
    assert imagenet.default_hooks.checkpoint.get('by_epoch', True) and not imagenet.get('work_dir')


def test_imagenet_run_of_setformer_starts_a_detector(tmp_path):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(copy.deepcopy(load('imagenet_setformer_m.py').model))
    file = tmp_path / 'epoch_300.pth'
    torch.save(dict(meta=dict(epoch=300), state_dict=classifier.state_dict(), optimizer={}), file)
    cfg = copy.deepcopy(load('maskrcnn_setformer_m.py').model.backbone)
    cfg.init_cfg.checkpoint = str(file)
    backbone = MODELS.build(cfg)

    backbone.init_weights()

    trained, ours = classifier.backbone.state_dict(), backbone.state_dict()
    assert ours.keys() - trained.keys() == {f'out_norms.{i}.{name}' for i in range(3) for name in ('weight', 'bias')}
    assert all(torch.equal(trained[key], ours[key]) for key in trained)


def test_absent_checkpoint_of_setformer_stops_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='work_dirs/imagenet_setformer_t/epoch_300.pth can not be found'):
        MODELS.build(load('upernet_setformer_t.py').model.backbone).init_weights()


@pytest.mark.parametrize('network', SETFORMERS)
@pytest.mark.parametrize('setting', SETFORMER_SETTINGS)
def test_larger_setformers_drop_more_paths(setting, network):
    rates = dict(zip(('imagenet', 'maskrcnn', 'upernet'), SETFORMERS[network][1:]), cascade=SETFORMERS[network][2])

    assert load(setting.format(network)).model.backbone.drop_path_rate == rates[setting.split('_')[0]]


@pytest.mark.parametrize('network', SETFORMERS)
def test_setformer_has_a_norm_on_each_output_and_no_dropout(network):
    norms = [build(setting.format(network)).backbone.out_norms for setting in SETFORMER_SETTINGS]

    assert [sum(isinstance(norm, torch.nn.LayerNorm) for norm in part) for part in norms] == [4, 4, 4, 4, 1]
    assert load(f'imagenet_{network}.py').model.neck.dropout == 0.


@pytest.mark.parametrize('head', ['maskrcnn', 'upernet'])
def test_softmax_on_shapes_differs_from_transport_in_the_attention_alone(head):
    transport, softmax = (flatten(load(f'{head}_setformer_m{name}_shapes.py').to_dict()) for name in ('', '_softmax'))
    different = {key for key in transport.keys() | softmax.keys() if transport.get(key) != softmax.get(key)}

    assert different == {'.model.backbone.attention'}
    assert softmax['.model.backbone.attention'] == 'softmax'


@pytest.mark.parametrize('network', BASELINES)
@pytest.mark.parametrize('setting', PARC_SETTINGS)
def test_baseline_differs_from_its_partner_in_the_insert_locations_alone(setting, network):
    partner, baseline = (flatten(load(setting.format(name)).to_dict()) for name in (network, f'{network}_baseline'))
    different = {key for key in partner.keys() | baseline.keys() if partner.get(key) != baseline.get(key)}
    # each starts from the checkpoint of its own network
    start = set() if setting.startswith('imagenet') else {'.model.backbone.init_cfg.checkpoint'}

    assert different == {'.model.backbone.insert_locations', *start}
    assert baseline['.model.backbone.insert_locations'] == []


def test_baseline_on_shapes_differs_from_its_partner_in_the_insert_locations_alone():
    partner, baseline = (flatten(load(f'maskrcnn_{name}_shapes.py').to_dict()) for name in ('parc_r50', 'parc_r50_baseline'))
    different = {key for key in partner.keys() | baseline.keys() if partner.get(key) != baseline.get(key)}

    assert different == {'.model.backbone.insert_locations'}


@pytest.mark.parametrize('network', PARC)
def test_insert_locations_of_the_config_are_those_of_the_class(network):
    name = f'imagenet_{network}.py'
    backbone = copy.deepcopy(load(name).model.backbone)
    assert backbone.pop('insert_locations')

    with torch.device('meta'):
        assert [*MODELS.build(backbone).state_dict()] == [*build(name).backbone.state_dict()]


@pytest.mark.parametrize('network', BASELINES)
def test_baseline_has_no_parc(network):
    assert any('.h.weight' in key for key in build(f'maskrcnn_{network}.py').backbone.state_dict())
    assert not any('.h.weight' in key for key in build(f'maskrcnn_{network}_baseline.py').backbone.state_dict())


@pytest.mark.parametrize('network', RELEASES)
@pytest.mark.parametrize('setting', SETTINGS)
def test_larger_half_of_the_networks_drops_more_paths(setting, network):
    backbone = load(setting.format(network)).model.backbone

    assert backbone.drop_path_rate == (0.3 if network[-1] in 'ml' else 0.1)


@pytest.mark.parametrize('name', ['maskrcnn_transcnn_s.py', 'maskrcnn_transcnn_s_3x.py', 'maskrcnn_glit_t.py',
                                  'maskrcnn_glit_t_3x.py'])
def test_batch_norm_of_a_detector_keeps_its_statistics(name):
    backbone = build(name).train().backbone
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]

    assert norms and not any(norm.training for norm in norms)


@pytest.mark.parametrize('name', ['upernet_transcnn_s.py', 'upernet_glit_t.py'])
def test_batch_norm_of_a_segmentor_is_synchronised(name):
    norms = [module for module in build(name).backbone.modules() if isinstance(module, _BatchNorm)]

    assert norms and all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)


@pytest.mark.parametrize('name', ['maskrcnn_parc_r50.py', 'cascade_maskrcnn_parc_r50_3x.py', 'upernet_parc_r50.py'])
def test_stem_and_first_stage_of_resnet_are_frozen_and_batch_norm_keeps_its_statistics(name):
    backbone = build(name).train().backbone
    learns = {'.'.join(key.split('.')[:2]) for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]

    assert {key for key in learns if key.startswith(('stem', 'stages'))} == {'stages.1', 'stages.2', 'stages.3'}
    assert norms and not any(norm.training for norm in norms)


@pytest.mark.parametrize('setting', PARC_DENSE)
def test_all_of_mobilenet_learns_and_batch_norm_takes_new_statistics(setting):
    backbone = build(setting.format('parc_mbv2')).train().backbone
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]

    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert norms and all(norm.training for norm in norms)
    assert {isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms} == {setting.startswith('upernet')}


@pytest.mark.parametrize('network', CONVNEXTS)
def test_convnext_has_output_norms_in_dense_tasks_and_a_norm_of_the_pooled_vector_in_classification(network):
    for setting in PARC_DENSE:
        assert build(setting.format(network)).backbone.out_norm
    classifier = build(f'imagenet_{network}.py')

    assert not classifier.backbone.out_norm
    assert isinstance(classifier.neck.norm, torch.nn.LayerNorm) and classifier.neck.norm.eps == 1e-6


@pytest.mark.parametrize('network', CONVNEXTS)
@pytest.mark.parametrize('setting', PARC_SETTINGS)
def test_convnext_drops_more_paths_in_dense_tasks(setting, network):
    rate = load(setting.format(network)).model.backbone.drop_path_rate

    assert rate == (0.1 if setting.startswith('imagenet') else 0.4)


@pytest.mark.parametrize('network', [*RELEASES, *PARC])
def test_pooled_features_are_dropped_as_in_the_release(network):
    dropout = load(f'imagenet_{network}.py').model.neck.dropout

    assert dropout == (0. if network in ('parc_r50', *CONVNEXTS) else 0.2)


@pytest.mark.parametrize('setting', SETTINGS)
def test_hatnet_keeps_its_group_norm(setting):
    backbone = build(setting.format('hatnet_t')).backbone

    assert not any(isinstance(module, _BatchNorm) for module in backbone.modules())


@pytest.mark.parametrize('network', GLITS)
@pytest.mark.parametrize('setting', DENSE)
def test_dense_config_of_glit_starts_from_a_file_of_the_user(setting, network):
    arch, channels, checkpoint, _ = GLITS[network]
    backbone = load(setting.format(network)).model.backbone

    assert (backbone.type, backbone.arch, backbone.drop_path_rate) == ('hybrid_mm.GLiT', arch, 0.1)
    assert build(setting.format(network)).backbone.out_channels == (channels, ) * 4
    assert backbone.init_cfg == dict(type='hybrid_mm.Released', checkpoint=checkpoint)


@pytest.mark.parametrize('network', GLITS)
def test_checkpoint_of_a_dense_config_of_glit_is_the_last_one_of_our_imagenet_run(network):
    cfg = load(f'imagenet_{network}.py')

    assert cfg.model.backbone.arch == GLITS[network][0]
    if network != 'glit_t':  # the authors' file
        assert GLITS[network][2] == f'work_dirs/imagenet_{network}/epoch_{cfg.train_cfg.max_epochs}.pth'
    assert cfg.default_hooks.checkpoint.get('by_epoch', True) and not cfg.get('work_dir')


def test_absent_checkpoint_of_glit_stops_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='no checkpoint file checkpoints/glit_tiny.pth.tar'):
        MODELS.build(load('upernet_glit_t.py').model.backbone).init_weights()


def test_imagenet_run_of_glit_starts_a_dense_config_with_its_last_weights(tmp_path):
    cfg = load('imagenet_glit_t.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(copy.deepcopy(cfg.model))
    checkpoint = dict(meta=dict(epoch=310), state_dict=classifier.state_dict(), optimizer={})
    runner = SimpleNamespace(model=copy.deepcopy(classifier))
    torch.nn.init.zeros_(runner.model.backbone.stem.proj.weight)  # stands for an average that differs
    hook = HOOKS.build(copy.deepcopy(cfg.custom_hooks[1]))
    hook.before_run(runner)
    hook.before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / 'epoch_310.pth')
    dense = copy.deepcopy(load('maskrcnn_glit_t.py').model.backbone)
    dense.init_cfg.checkpoint = str(tmp_path / 'epoch_310.pth')
    backbone = MODELS.build(dense)

    backbone.init_weights()

    trained, ours = classifier.backbone.state_dict(), backbone.state_dict()
    assert trained.keys() - ours.keys() == {'stem.cls_token'}
    assert ours.keys() - trained.keys() == {f'out_norms.{i}.{name}' for i in range(3) for name in ('weight', 'bias')}
    trained['stem.pos_embed'] = trained['stem.pos_embed'][:, 1:]
    assert all(torch.equal(trained[key], ours[key]) for key in trained.keys() & ours.keys())


@pytest.mark.parametrize('network', GLITS)
def test_classifier_of_glit_is_the_release_with_a_class_token(network):
    model = build(f'imagenet_{network}.py')

    assert model.backbone.mode == 'image' and model.backbone.out_indices == (3, ) and not model.with_neck
    assert sum(parameter.numel() for parameter in model.parameters()) == GLITS[network][3]


@pytest.mark.parametrize('network', GLITS)
@pytest.mark.parametrize('setting, blocks', [('maskrcnn_{}.py', (3, 6, 9, 11)), ('maskrcnn_{}_3x.py', (3, 6, 9, 11)),
                                             ('upernet_{}.py', tuple(range(12)))])
def test_glit_attends_in_windows_in_detectors_and_to_the_whole_map_in_segmentors(setting, blocks, network):
    backbone = build(setting.format(network)).backbone

    assert backbone.mode == 'dense' and backbone.window_size == 14
    assert backbone.global_blocks == blocks


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


@pytest.mark.parametrize('network', [*RELEASES, *GLITS])
def test_1x_trains_12_epochs_at_a_single_scale(network):
    cfg = load(f'maskrcnn_{network}.py')
    resizes = [step for step in cfg.train_dataloader.dataset.pipeline if 'Resize' in step.type]

    assert resizes == [dict(type='Resize', scale=(1333, 800), keep_ratio=True)]
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.param_scheduler[1].milestones == [8, 11]


@pytest.mark.parametrize('network', [*RELEASES, *GLITS])
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


@pytest.mark.parametrize('network', [*RELEASES, *GLITS])
def test_segmentor_trains_160k_iterations_on_512_pixels(network):
    cfg = load(f'upernet_{network}.py')
    crop, = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop']

    assert crop.crop_size == cfg.model.data_preprocessor.size == (512, 512)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 160000
    assert cfg.model.test_cfg.mode == 'whole'


@pytest.mark.parametrize('network', RELEASES)
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


# ---- recipes of ParC ----


def weight_decays(name):
    """Weight decay of each parameter of a config's model by name."""
    model = build(name)
    optim_wrapper = build_optim_wrapper(model, dict(load(name).optim_wrapper, type='OptimWrapper'))
    groups = {id(parameter): group for group in optim_wrapper.param_groups for parameter in group['params']}
    return {key: (parameter, groups[id(parameter)]['weight_decay']) for key, parameter in model.named_parameters()
            if parameter.requires_grad}


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
    assert ours.custom_hooks[1].momentum == theirs.custom_hooks[0].momentum


@pytest.mark.parametrize('network', PARC)
@pytest.mark.parametrize('setting, epochs, steps', [('maskrcnn_{}.py', 12, [8, 11]),
                                                    ('cascade_maskrcnn_{}_3x.py', 36, [27, 33])])
def test_detector_of_parc_follows_the_authors(setting, epochs, steps, network):
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


@pytest.mark.parametrize('network', PARC)
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


@pytest.mark.parametrize('network', CONVNETS)
def test_classifier_of_parc_follows_the_recipe_of_convnext(network):
    cfg = load(f'imagenet_{network}.py')
    warm_up, cosine = cfg.param_scheduler
    loader, optim_wrapper, (_, ema) = cfg.train_dataloader, cfg.optim_wrapper, cfg.custom_hooks
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


@pytest.mark.parametrize('network', PARCNETS)
def test_classifier_of_parcnet_follows_its_authors(network):
    cfg = load(f'imagenet_{network}.py')
    warm_up, cosine = cfg.param_scheduler
    _, ema, sizes = cfg.custom_hooks
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


@pytest.mark.parametrize('name', ['maskrcnn_parc_mbv2.py', 'cascade_maskrcnn_parc_convnext_xt_3x.py', 'upernet_parc_r50.py',
                                  'upernet_parc_convnext_xt.py', 'imagenet_parc_convnext_xt.py'])
def test_vectors_and_biases_are_free_of_weight_decay(name):
    for key, (parameter, decay) in weight_decays(name).items():
        assert decay == (0 if parameter.dim() == 1 or key.endswith('.bias') else 0.05), key


def test_weight_decay_of_parcnet_is_on_all_parameters_on_imagenet():
    assert {decay for _, decay in weight_decays('imagenet_parcnet_s.py').values()} == {0.025}


@pytest.mark.parametrize('name', [name for name in PUBLISHED if name.startswith('imagenet_parc')])
def test_average_of_the_weights_is_what_is_tested(name):
    cfg = load(name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        average = HOOKS.build(cfg.custom_hooks[1])

    assert average.evaluate_on_ema and not average.evaluate_on_origin


# ---- recipes of SeTformer ----


@pytest.mark.parametrize('name, stock, parts', [
    ('maskrcnn_setformer_t.py', 'maskrcnn_transcnn_s.py', ['model', 'optim_wrapper.optimizer', *STOCK_PARTS, 'auto_scale_lr']),
    ('maskrcnn_setformer_t_3x.py', 'maskrcnn_transcnn_s_3x.py',
     ['model', 'optim_wrapper.optimizer', *STOCK_PARTS, 'auto_scale_lr']),
    ('cascade_maskrcnn_setformer_t_3x.py', 'cascade_maskrcnn_parcnet_s_3x.py',
     ['model', 'train_dataloader', 'test_dataloader']),
    ('cascade_maskrcnn_setformer_t_3x.py', 'maskrcnn_transcnn_s_3x.py',
     ['optim_wrapper.optimizer', *STOCK_PARTS, 'auto_scale_lr']),
    ('upernet_setformer_t.py', 'upernet_hatnet_t.py',
     ['model', 'optim_wrapper.type', 'optim_wrapper.optimizer', *STOCK_PARTS, 'auto_scale_lr', 'tta_model', 'tta_pipeline']),
])
def test_dense_recipe_of_setformer_is_swins(name, stock, parts):
    """The others' recipes, which other tests compare with MMDetection's and MMSegmentation's, but for the network's own."""
    ours, stock = (flatten(load(config).to_dict()) for config in (name, stock))
    own = ('.model.backbone.', '.model.data_preprocessor.')
    different = {key for key in ours.keys() | stock.keys() if ours.get(key) != stock.get(key) and not key.startswith(own)}
    different = {key for key in different if not key.endswith('in_channels')}

    assert not {key for key in different if any(key == f'.{part}' or key.startswith(f'.{part}.') for part in parts)}


@pytest.mark.parametrize('network', SETFORMERS)
def test_recipes_of_setformer(network):
    for setting, epochs, steps in (('maskrcnn_{}.py', 12, [8, 11]), ('maskrcnn_{}_3x.py', 36, [27, 33]),
                                   ('cascade_maskrcnn_{}_3x.py', 36, [27, 33])):
        cfg = load(setting.format(network))
        assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
        assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
        assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].milestones) == (epochs, steps)
        assert ('RandomChoice' in [step.type for step in cfg.train_dataloader.dataset.pipeline]) == (epochs == 36)
    cfg = load(f'upernet_{network}.py')
    assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    assert (cfg.param_scheduler[0].end, cfg.train_cfg.max_iters, cfg.model.test_cfg.mode) == (1500, 160000, 'whole')


@pytest.mark.parametrize('network', SETFORMERS)
def test_classifier_of_setformer_follows_the_recipe_of_swin(network):
    cfg = load(f'imagenet_{network}.py')
    stock = Path(mmpretrain.__file__).parent / '.mim' / 'configs' / 'swin_transformer'
    swin = Config.fromfile(stock / 'swin-tiny_16xb64_in1k.py')
    warm_up, cosine = cfg.param_scheduler

    assert_same(cfg.train_dataloader, swin.train_dataloader, ['sampler', 'dataset'])
    assert_same(cfg.val_dataloader, swin.val_dataloader, ['sampler', 'dataset'])
    assert_same(cfg, swin, ['data_preprocessor', 'val_evaluator', 'train_cfg', 'val_cfg', 'test_cfg'])
    assert_same(cfg.model, swin.model, ['train_cfg'])
    assert_same(cfg.model.head, swin.model.head, ['num_classes', 'loss'])
    assert_same(cfg.optim_wrapper, swin.optim_wrapper, ['optimizer', 'clip_grad'])
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == swin.auto_scale_lr.base_batch_size
    assert flatten(warm_up) == {**flatten(swin.param_scheduler[0]), '.begin': 0}
    assert (cosine.eta_min, cosine.begin, cosine.end, cfg.train_cfg.max_epochs) == (5e-6, 20, 300, 300)
    assert [hook.type for hook in cfg.custom_hooks] == ['hybrid_mm.CheckSetupHook']  # no moving average


@pytest.mark.parametrize('setting', [*SETFORMER_SETTINGS, 'maskrcnn_{}_shapes.py', 'upernet_{}_shapes.py'])
def test_norms_and_references_are_free_of_weight_decay(setting):
    name = setting.format('setformer_m')
    weight_decay = load(name).optim_wrapper.optimizer.weight_decay
    no_biases = setting.startswith('imagenet')
    norms = {f'{prefix}.{key}' for prefix, module in build(name).named_modules()
             if isinstance(module, (_BatchNorm, torch.nn.LayerNorm)) for key in ('weight', 'bias')}
    decays = weight_decays(name)

    assert sum(key.endswith('.attn.references') for key in decays) == 18 and norms <= decays.keys()
    for key, (_, decay) in decays.items():
        is_free = key in norms or key.endswith('.attn.references') or (no_biases and key.endswith('.bias'))
        assert decay == (0 if is_free else weight_decay), key


# ---- recipes of GLiT ----


@pytest.mark.parametrize('name, stock', [
    ('maskrcnn_glit_t.py', 'maskrcnn_transcnn_s.py'),
    ('maskrcnn_glit_t_3x.py', 'maskrcnn_transcnn_s_3x.py'),
    ('upernet_glit_t.py', 'upernet_transcnn_s.py'),
    ('maskrcnn_glit_t_shapes.py', 'maskrcnn_transcnn_s_shapes.py'),
    ('upernet_glit_t_shapes.py', 'upernet_transcnn_s_shapes.py'),
])
def test_dense_recipe_of_glit_differs_from_transcnns_in_the_network_and_weight_decay_alone(name, stock):
    """TransCNN's recipes are those that other tests compare with MMDetection's and MMSegmentation's."""
    ours, stock = (load(config).to_dict() for config in (name, stock))
    neck = ours['model'].pop('neck')
    fpn = stock['model'].pop('neck', None)
    assert (neck[0] if fpn else neck) == dict(type='hybrid_mm.TokenPyramid', in_channels=[192] * 4)
    assert not fpn or neck[1:] == [dict(fpn, in_channels=[192] * 4)]
    ours, stock = flatten(ours), flatten(stock)
    different = {key for key in ours.keys() | stock.keys() if ours.get(key) != stock.get(key)}
    own = ('.model.backbone.', '.backbone.', '.released.', '.pretrained.', '.channels', '.pyramid.')

    assert {key for key in different if not key.startswith(own) and not key.endswith('_head.in_channels')} <= {
        '.optim_wrapper.paramwise_cfg.bias_decay_mult', '.optim_wrapper.paramwise_cfg.custom_keys.pos_embed.decay_mult'}


@pytest.mark.parametrize('network', GLITS)
def test_dense_recipes_of_glit(network):
    for setting, epochs, steps in (('maskrcnn_{}.py', 12, [8, 11]), ('maskrcnn_{}_3x.py', 36, [27, 33])):
        cfg = load(setting.format(network))
        assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
        assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
        assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].milestones) == (epochs, steps)
        assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    cfg = load(f'upernet_{network}.py')
    warm_up, poly = cfg.param_scheduler
    assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    assert (warm_up.end, poly.power, poly.end, cfg.train_cfg.max_iters) == (1500, 1., 160000, 160000)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.decode_head.channels == 512 and cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert cfg.tta_model.type == 'SegTTAModel'


@pytest.mark.parametrize('network', GLITS)
def test_classifier_of_glit_follows_the_release(network):
    cfg = load(f'imagenet_{network}.py')
    warm_up, cosine = cfg.param_scheduler
    loader, optim_wrapper, average = cfg.train_dataloader, cfg.optim_wrapper, cfg.custom_hooks[1]
    train, test = ({step.type: step for step in part.dataset.pipeline} for part in (loader, cfg.test_dataloader))

    assert optim_wrapper.type == 'AmpOptimWrapper' and optim_wrapper.clip_grad == dict(max_norm=1.0)
    assert optim_wrapper.optimizer == dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    assert loader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert DATA_SAMPLERS.build(loader.sampler, default_args=dict(dataset=range(9), seed=0)).num_repeats == 3
    assert warm_up.start_factor * optim_wrapper.optimizer.lr == pytest.approx(1e-6)
    assert (warm_up.end, cosine.begin, cosine.end, cosine.eta_min, cfg.train_cfg.max_epochs) == (5, 5, 300, 1e-5, 310)
    assert average == dict(type='hybrid_mm.WeightAverageHook', momentum=pytest.approx(1 - 0.99996), update_buffers=True)
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert train['RandomResizedCrop'].scale == test['CenterCrop'].crop_size == 224 and test['ResizeEdge'].scale == 256
    assert {train['RandomResizedCrop'].interpolation, test['ResizeEdge'].interpolation} == {'bicubic'}
    assert (train['RandAugment'].magnitude_level, train['RandAugment'].magnitude_std) == (9, 0.5)
    assert (train['RandomErasing'].erase_prob, train['RandomErasing'].mode) == (0.25, 'rand')
    assert not any('Jitter' in step for step in train)
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert cfg.model.train_cfg.augments == [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]


def test_last_ten_epochs_of_glit_run_at_the_last_learning_rate():
    cfg = load('imagenet_glit_t.py')
    cosine = {key: value for key, value in cfg.param_scheduler[1].items() if key != 'type'}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    scheduler, rates = CosineAnnealingLR(optimizer, **cosine), []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()

    assert rates[5] == 1e-3 and len(rates) == 310
    assert rates[300:] == rates[-1:] * 10 and rates[-1] == pytest.approx(1e-5, rel=0.01)


@pytest.mark.parametrize('setting', [*SETTINGS, 'maskrcnn_{}_shapes.py', 'upernet_{}_shapes.py'])
def test_weight_decay_of_glit(setting):
    name = setting.format('glit_t')
    weight_decay = load(name).optim_wrapper.optimizer.weight_decay
    norms = {f'{prefix}.{key}' for prefix, module in build(name).named_modules()
             if isinstance(module, (_BatchNorm, torch.nn.LayerNorm)) for key in ('weight', 'bias')}
    free = norms | {'backbone.stem.pos_embed', 'backbone.stem.cls_token'}
    decays = weight_decays(name)
    if setting.startswith('imagenet') or setting in ('maskrcnn_{}.py', 'maskrcnn_{}_3x.py'):  # not in segmentors
        free |= {key for key in decays if key.endswith('.bias')}

    assert ('backbone.stem.cls_token' in decays) == setting.startswith('imagenet') and norms <= decays.keys()
    for key, (parameter, decay) in decays.items():
        assert decay == (0 if key in free else weight_decay), key
        assert decay == 0 or parameter.dim() > 1 or not setting.startswith('imagenet'), key
