"""Learning rates by depth: the configs whose recipe asks for them have them, and every backbone can."""
import copy

import pytest
from configs.shipped import CONVNEXTS, LEAVES, build, for_each, load
from mmdet.engine.optimizers.layer_decay_optimizer_constructor import get_layer_id_for_convnext, get_stage_id_for_convnext
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

CONSTRUCTOR = 'hybrid_mm.LayerDecayOptimizerConstructor'
# ConvNeXt's recipe alone decays by depth, and ParC's authors take it over: their detectors by blocks, their segmentors by
# stages, both with 6 layers. Swin's, NAT's and PVT's recipes, which the other networks have, do not.
DETECTOR, SEGMENTOR = ('layer_wise', 0.7, 6), ('stage_wise', 0.9, 6)
RECIPES = {
    **{f'maskrcnn_{network}.py': DETECTOR for network in CONVNEXTS},
    **{f'cascade_maskrcnn_{network}_3x.py': DETECTOR for network in CONVNEXTS},
    **{f'upernet_{network}.py': SEGMENTOR for network in CONVNEXTS},
    'maskrcnn_parc_convnext_xt_baseline.py': DETECTOR,
    'cascade_maskrcnn_parc_convnext_xt_baseline_3x.py': DETECTOR,
    'upernet_parc_convnext_xt_baseline.py': SEGMENTOR,
}
FAMILIES = ['maskrcnn_transcnn_s.py', 'upernet_hatnet_t.py', 'maskrcnn_parc_r50.py', 'upernet_parc_mbv2.py',
            'imagenet_parc_convnext_xt.py', 'maskrcnn_parcnet_xs.py', 'maskrcnn_setformer_m.py', 'upernet_glit_t.py',
            'imagenet_glit_t.py', 'upernet_glit_shapes_search.py']
HOST = dict(type='mmpretrain.ConvNeXt', arch=dict(depths=[3, 3, 9, 3], channels=[4, 8, 12, 16]), out_indices=(0, 1, 2, 3),
            gap_before_final_norm=False)


def learning_rates(model, optim_wrapper):
    """Learning rate of each trained parameter by name."""
    groups = build_optim_wrapper(model, dict(optim_wrapper, type='OptimWrapper')).param_groups
    rates = {id(parameter): group['lr'] for group in groups for parameter in group['params']}
    return {name: rates[id(parameter)] for name, parameter in model.named_parameters() if parameter.requires_grad}


def halving(**paramwise_cfg):
    """Learning rates that halve from layer to layer, 1 at the heads."""
    optimizer = dict(type='AdamW', lr=1., weight_decay=0.05)
    return dict(constructor=CONSTRUCTOR, optimizer=optimizer, paramwise_cfg=dict(decay_rate=0.5, **paramwise_cfg))


@for_each(name=LEAVES)
def test_configs_decay_by_depth_exactly_where_their_recipe_does(name):
    optim_wrapper = load(name).optim_wrapper
    paramwise = optim_wrapper.get('paramwise_cfg', {})

    assert optim_wrapper.get('constructor') == (CONSTRUCTOR if name in RECIPES else None)
    assert tuple(paramwise.get(key) for key in ('decay_type', 'decay_rate', 'num_layers')) == RECIPES.get(name, (None, ) * 3)


@for_each(name=RECIPES)
def test_learning_rates_are_those_of_convnext(name):
    decay_type, decay_rate, num_layers = RECIPES[name]
    optim_wrapper = load(name).optim_wrapper
    rates = learning_rates(build(name), optim_wrapper)

    assert any(key.startswith('backbone.') for key in rates) and any(not key.startswith('backbone.') for key in rates)
    for key, rate in rates.items():
        theirs = key.replace('.stem.', '.downsample_layers.0.').replace('.downsamples.', '.downsample_layers.')
        layer = (get_layer_id_for_convnext(theirs, num_layers) if decay_type == 'layer_wise' else
                 get_stage_id_for_convnext(theirs, num_layers + 2))
        assert rate == pytest.approx(optim_wrapper.optimizer.lr * decay_rate**(num_layers + 1 - layer)), key


@for_each(name=FAMILIES)
def test_each_block_of_every_backbone_can_have_a_rate_of_its_own(name):
    model = build(name)
    rates = learning_rates(model, halving())
    last = sum(model.backbone.depths) + 1
    blocks = [(i, j) for i, depth in enumerate(model.backbone.depths) for j in range(depth)]
    expected = {f'stages.{i}.{j}': number for number, (i, j) in enumerate(blocks, start=1)}
    expected.update({f'downsamples.{i}': expected[f'stages.{i}.0'] for i in range(len(model.backbone.depths))}, stem=0)

    seen = set()
    for key, rate in rates.items():
        part = '.'.join(key.split('.')[1:4 if key.startswith('backbone.stages.') else 3])
        part = 'stem' if key.startswith('backbone.stem.') else part
        layer = expected.get(part, last) if key.startswith('backbone.') else last
        assert rate == 0.5**(last - layer), key
        seen.add(layer)
    first, behind = max(model.backbone.frozen_stages, 0), max(model.backbone.out_indices) + 1
    trained = [number for (i, _), number in zip(blocks, range(1, last)) if first <= i < behind]
    assert seen == {*trained, last} | ({0} if model.backbone.frozen_stages < 0 else set())


@for_each(name=FAMILIES)
def test_each_stage_of_every_backbone_can_have_a_rate_of_its_own(name):
    model = build(name)
    rates = learning_rates(model, halving(decay_type='stage_wise'))
    last = len(model.backbone.depths) + 1

    for key, rate in rates.items():
        top, part, stage, *_ = f'{key}..'.split('.')
        layer = last if top != 'backbone' or part == 'out_norms' else int(stage) + 1 if part == 'stages' else 0
        assert rate == 0.5**(last - layer), key


def test_weight_decay_has_to_be_given():
    with pytest.raises(ValueError, match='optimizer.weight_decay is missing; .* give it, 0 for none'):
        learning_rates(build('maskrcnn_parcnet_xs.py'), dict(halving(), optimizer=dict(type='AdamW', lr=1.)))


def detector_with_host(host, select):
    """A backbone of a library with ParC inside, and a neck."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        backbone = MODELS.build(dict(type='hybrid_mm.WithParC', backbone=copy.deepcopy(host), select=select, resolution=224))
    model = nn.Module()
    model.backbone, model.neck = backbone, nn.Conv2d(3, 3, 1)
    return model


def test_a_host_with_parc_inside_has_the_rates_of_its_own_depths():
    rates = learning_rates(detector_with_host(HOST, r'^stages\.[23]'), halving())

    layers = {'downsample_layers.0': 0, 'stages.0': 1, 'downsample_layers.1': 2, 'stages.1': 2, 'downsample_layers.2': 3,
              'downsample_layers.3': 6, 'stages.3': 6}
    assert 'backbone.stages.2.8.depthwise_conv.h.weight' in rates
    for key, rate in rates.items():
        _, part, stage, block, *_ = f'{key}...'.split('.')
        layer = 3 + int(block) // 3 if (part, stage) == ('stages', '2') else layers.get(f'{part}.{stage}', 7)
        assert rate == 0.5**(7 - layer), key


def test_a_host_that_does_not_know_its_depths_is_refused():
    model = detector_with_host(dict(type='mmdet.MobileNetV2', widen_factor=0.25), r'layer2\.1\.depthwise_conv')
    with pytest.raises(ValueError, match='layer_wise decay needs .*, not MobileNetV2; .* takes one with get_layer_depth'):
        learning_rates(model, halving())


def test_a_host_has_no_stage_wise_decay():
    with pytest.raises(ValueError, match='stage_wise decay needs a backbone of hybrid_mm as model.backbone, not ConvNeXt'):
        learning_rates(detector_with_host(HOST, r'^stages\.[23]'), halving(decay_type='stage_wise'))
