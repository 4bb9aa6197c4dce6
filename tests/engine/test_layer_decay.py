import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

ARCH = dict(channels=(8, 8, 8, 8), depths=(3, 3, 9, 3))
TRANSCNN = dict(
    type='hybrid_mm.TransCNN', head_dim=16, out_norm=True,
    arch=dict(
        channels=(16, 16, 32, 32), depths=(1, 2, 2, 1), expansions=(2, 2, 2, 2), kernel_sizes=(3, 3, 3, 3),
        grid_sizes=(8, 4, 2, 1), pool_ratios=(8, 4, 2, 1), grid_lists=((8, 4), (4, 2), (2, 2), (2, ))))


class Detector(nn.Module):

    def __init__(self, backbone):
        super().__init__()
        with torch.device('meta'):
            self.backbone = MODELS.build(backbone) if isinstance(backbone, dict) else backbone
            self.neck = nn.Conv2d(3, 3, 1)


@pytest.fixture(scope='module')
def convnext():
    """ParC-ConvNeXt of the published depths in a detector."""
    return Detector(dict(type='hybrid_mm.ParCConvNeXt', arch=ARCH, insert_locations=(3, 3, 6, 2)))


def build(model, optimizer=None, **paramwise_cfg):
    return build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor='hybrid_mm.LayerDecayOptimizerConstructor',
            optimizer=optimizer or dict(type='AdamW', lr=2., weight_decay=0.05),
            paramwise_cfg=paramwise_cfg))


def options(model, **paramwise_cfg):
    """Group of each parameter by name."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = build(model, **paramwise_cfg).param_groups
    return {names[id(parameter)]: group for group in groups for parameter in group['params'] if id(parameter) in names}


def expected_layer(table, name):
    """Entry of the longest key that the name starts with."""
    keys = [key for key in table if name == key or name.startswith(f'{key}.')]
    return table[max(keys, key=len)]


# the rule of ConvNeXt's detectors with 6 layers
LAYERS = {
    'backbone.stem': 0,
    'backbone.stages.0': 1,
    'backbone.downsamples.1': 2, 'backbone.stages.1': 2,
    'backbone.downsamples.2': 3, 'backbone.stages.2.0': 3, 'backbone.stages.2.1': 3, 'backbone.stages.2.2': 3,
    'backbone.stages.2.3': 4, 'backbone.stages.2.4': 4, 'backbone.stages.2.5': 4,
    'backbone.stages.2.6': 5, 'backbone.stages.2.7': 5, 'backbone.stages.2.8': 5,
    'backbone.downsamples.3': 6, 'backbone.stages.3': 6,
    'backbone.out_norms': 7, 'neck': 7,
}  # yapf: disable
# the rule of its segmentors
STAGES = {
    'backbone.stem': 0, 'backbone.downsamples': 0,
    'backbone.stages.0': 1, 'backbone.stages.1': 2, 'backbone.stages.2': 3, 'backbone.stages.3': 4,
    'backbone.out_norms': 7, 'neck': 7,
}  # yapf: disable
# six blocks and no option: each is a layer
BLOCKS = {
    'backbone.stem': 0,
    'backbone.stages.0.0': 1,
    'backbone.downsamples.1': 2, 'backbone.stages.1.0': 2, 'backbone.stages.1.1': 3,
    'backbone.downsamples.2': 4, 'backbone.stages.2.0': 4, 'backbone.stages.2.1': 5,
    'backbone.downsamples.3': 6, 'backbone.stages.3.0': 6,
    'backbone.out_norms': 7, 'neck': 7,
}  # yapf: disable


@pytest.mark.parametrize('decay_rate, decay_type, table', [(0.7, 'layer_wise', LAYERS), (0.9, 'stage_wise', STAGES)])
def test_rates_of_parc_convnext_are_those_of_the_recipe(convnext, decay_rate, decay_type, table):
    groups = options(convnext, decay_rate=decay_rate, decay_type=decay_type, num_layers=6)

    assert groups.keys() == dict(convnext.named_parameters()).keys()
    assert {name: group['lr'] for name, group in groups.items()} == {
        name: pytest.approx(2 * decay_rate**(7 - expected_layer(table, name))) for name in groups}


def test_rates_agree_with_mmdetection_on_convnext(convnext):
    from mmdet.engine.optimizers.layer_decay_optimizer_constructor import get_layer_id_for_convnext, get_stage_id_for_convnext
    layers = options(convnext, decay_rate=0.5, num_layers=6)
    stages = options(convnext, decay_rate=0.5, decay_type='stage_wise', num_layers=6)
    for name in layers:
        theirs = name.replace('.stem.', '.downsample_layers.0.').replace('.downsamples.', '.downsample_layers.')
        assert layers[name]['lr'] == 2 * 0.5**(7 - get_layer_id_for_convnext(theirs, 6))
        assert stages[name]['lr'] == 2 * 0.5**(7 - get_stage_id_for_convnext(theirs, 8))


@pytest.mark.parametrize('num_layers, layers', [(None, [0, 1, 2, 3, 4, 5, 6, 7]), (3, [0, 1, 1, 2, 2, 3, 3, 4]),
                                                (1, [0, 1, 1, 1, 1, 1, 1, 2])])
def test_blocks_are_divided_into_layers(num_layers, layers):
    model = Detector(TRANSCNN)
    paramwise_cfg = {} if num_layers is None else dict(num_layers=num_layers)

    for name, group in options(model, decay_rate=0.5, **paramwise_cfg).items():
        assert group['lr'] == 2 * 0.5**(layers[-1] - layers[expected_layer(BLOCKS, name)]), name


def test_stages_are_the_layers_of_stage_wise_decay_by_default():
    model = Detector(TRANSCNN)

    for name, group in options(model, decay_rate=0.5, decay_type='stage_wise').items():
        assert group['lr'] == 2 * 0.5**(5 - min(expected_layer(STAGES, name), 5)), name


def test_vectors_and_biases_have_no_weight_decay(convnext):
    groups = options(convnext, decay_rate=0.7, num_layers=6)

    assert groups['backbone.stages.2.6.dwconv.h.pos_embed']['weight_decay'] == 0.05
    assert groups['backbone.stages.2.6.dwconv.h.bias']['weight_decay'] == 0
    assert groups['backbone.stages.0.0.gamma']['weight_decay'] == 0
    for name, parameter in convnext.named_parameters():
        is_free = parameter.dim() == 1 or name.endswith('.bias')
        assert groups[name]['weight_decay'] == (0 if is_free else 0.05), name


def test_frozen_parameters_are_in_no_group():
    model = Detector(dict(type='hybrid_mm.ParCConvNeXt', arch=ARCH, frozen_stages=1))
    names = options(model, decay_rate=0.7, num_layers=6)

    assert not any(name.startswith(('backbone.stem.', 'backbone.stages.0.')) for name in names)
    assert any(name.startswith('backbone.stages.1.') for name in names)


def test_options_of_mmengine_go_on_working(convnext):
    custom_keys = {'backbone.stem': dict(lr_mult=0.1, decay_mult=0.)}
    groups = options(convnext, decay_rate=0.5, num_layers=6, custom_keys=custom_keys, bias_decay_mult=1.)

    assert groups['backbone.stem.0.weight']['lr'] == pytest.approx(2 * 0.5**7 * 0.1)
    assert groups['backbone.stem.0.weight']['weight_decay'] == 0
    assert groups['backbone.stages.0.0.pwconv1.bias']['weight_decay'] == 0.05


def test_parameters_that_learn_alike_share_a_group(convnext):
    groups = options(convnext, decay_rate=0.7, num_layers=6).values()

    kinds = {(group['lr'], group['weight_decay']) for group in groups}
    assert len({id(group) for group in groups}) == len(kinds) == 8 * 2


@pytest.mark.parametrize('paramwise_cfg, message', [
    (dict(), 'decay_rate=None is not allowed; choose from above 0 to 1'),
    (dict(decay_rate=0), 'decay_rate=0 is not allowed'),
    (dict(decay_rate=1.5), 'decay_rate=1.5 is not allowed'),
    (dict(decay_rate=0.9, decay_type='blockwise'), "decay_type='blockwise' is unknown; choose from layer_wise, stage_wise"),
    (dict(decay_rate=0.9, num_layers=0), 'num_layers=0 is not allowed; choose from 1 to'),
    (dict(decay_rate=0.9, num_layers=99), 'num_layers=99 is not allowed; choose from 1 to'),
    (dict(decay_rate=0.9, decay_type='stage_wise', num_layers=3), 'num_layers=3 is not allowed; choose 4 or more'),
])
def test_bad_option_is_refused(convnext, paramwise_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(convnext, **paramwise_cfg)


def test_other_backbone_is_refused():
    with pytest.raises(ValueError, match='needs a backbone of hybrid_mm as model.backbone, not Conv2d'):
        build(Detector(nn.Conv2d(3, 3, 1)), decay_rate=0.9)


def test_optimizer_without_learning_rate_is_refused(convnext):
    with pytest.raises(ValueError, match='optimizer.lr is missing'):
        build(convnext, optimizer=dict(type='Adadelta', weight_decay=0.), decay_rate=0.9)
