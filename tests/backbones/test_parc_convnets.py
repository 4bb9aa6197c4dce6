"""ParC-ResNet50, ParC-MobileNetV2 and ParC-ConvNeXt: where ParC stands, what it costs, and the networks without it."""
import pytest
import torch
from mmpretrain.models.backbones import ConvNeXt
from torch import nn
from torchvision.models import mobilenet_v2, resnet50

from hybrid_mm.backbones import ParCConvNeXt, ParCMobileNetV2, ParCResNet
from hybrid_mm.checkpoints import convert
from hybrid_mm.layers import ParC2d, ParCHW

FAMILIES = [ParCResNet, ParCMobileNetV2, ParCConvNeXt]


def places(model):
    """Names of the ParC layers, without the part inside of a block."""
    return ['.'.join(name.split('.')[1:3]) for name, module in model.named_modules() if isinstance(module, ParCHW)]


def num_parameters(model, in_features, pooled_norm=False):
    """With a classifier of 1000 classes, and a norm in front of it."""
    norm = 2 * in_features if pooled_norm else 0
    return sum(p.numel() for p in model.parameters()) + norm + 1000 * in_features + 1000


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def family(request):
    return request.param


def build(family, **kwargs):
    torch.manual_seed(0)
    model = family(**kwargs)
    model.init_weights()
    return model


# ---- the published networks ----


@pytest.mark.parametrize('family, args, in_features, counts', [
    (ParCResNet, (50, ), 2048, (23_737_640, 25_557_032)),
    (ParCMobileNetV2, (1.0, ), 1280, (3_532_136, 3_504_872)),
    (ParCConvNeXt, ('xtiny', ), 384, (7_412_824, 7_438_360)),
    (ParCConvNeXt, ('tiny', ), 768, (28_538_056, 28_589_128)),
], ids=['resnet50', 'mobilenet_v2', 'convnext_xtiny', 'convnext_tiny'])
def test_parameters_are_those_of_the_releases(family, args, in_features, counts):
    release_form = dict(out_norm=False) if family is ParCConvNeXt else {}
    with torch.device('meta'):
        models = family(*args, **release_form), family(*args, insert_locations=(), **release_form)

    assert tuple(num_parameters(model, in_features, family is ParCConvNeXt) for model in models) == counts


@pytest.mark.parametrize('family, expected', [
    (ParCResNet, ['2.3', '2.4', '2.5', '3.2']),
    (ParCMobileNetV2, ['2.2', '2.3', '2.6', '3.2']),  # features 9, 10, 13 and 16 of the release
    (ParCConvNeXt, ['2.6', '2.7', '2.8', '3.2']),
])
def test_parc_stands_where_the_release_has_it(family, expected):
    with torch.device('meta'):
        assert places(family()) == expected
        assert places(family(insert_locations=())) == []


@pytest.mark.parametrize('family, sizes, depthwise, with_embedding', [
    (ParCResNet, [14, 14, 14, 7], False, [True] * 4),
    (ParCMobileNetV2, [14, 14, 14, 7], True, [True, False, True, True]),
    (ParCConvNeXt, [14, 14, 14, 7], True, [True] * 4),
])
def test_parc_has_the_form_of_the_release(family, sizes, depthwise, with_embedding):
    with torch.device('meta'):
        layers = [module for module in family().modules() if isinstance(module, ParC2d)]

    assert [layer.axis for layer in layers] == ['H', 'W'] * 4
    assert [layer.base_size for layer in layers[::2]] == [layer.base_size for layer in layers[1::2]] == sizes
    assert [layer.pos_embed is not None for layer in layers[::2]] == with_embedding
    assert all(layer.depthwise == depthwise and layer.bias is not None for layer in layers)


@pytest.mark.parametrize('family, channels', [
    (ParCResNet, (256, 512, 1024, 2048)),
    (ParCMobileNetV2, (24, 32, 96, 1280)),
    (ParCConvNeXt, (48, 96, 192, 384)),
])
def test_maps_at_strides_4_to_32(family, channels):
    model = build(family).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 64, 96))

    assert model.out_channels == channels
    assert [tuple(x.shape) for x in maps] == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32))]
    assert all(x.is_contiguous() for x in maps)


# ---- the networks without ParC ----


@pytest.mark.parametrize('family, source', [(ParCResNet, resnet50), (ParCMobileNetV2, mobilenet_v2)])
def test_without_parc_it_is_torchvisions_network(family, source):
    torch.manual_seed(0)
    theirs = source().eval().double()
    ours = family(insert_locations=()).eval().double()
    ours.load_state_dict(convert(theirs.state_dict(), family.__name__))
    x = torch.randn(1, 3, 64, 71, dtype=torch.float64)
    stem_to_last = nn.Sequential(*list(theirs.children())[:-2]) if source is resnet50 else theirs.features
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[3], stem_to_last(x), rtol=1e-9, atol=1e-9)


def test_without_parc_it_is_mmpretrains_convnext():
    torch.manual_seed(0)
    arch = dict(depths=[2, 2, 3, 2], channels=[16, 24, 32, 48])
    theirs = ConvNeXt(arch, out_indices=(0, 1, 2, 3), gap_before_final_norm=False).double()
    theirs.eval()
    ours = ParCConvNeXt(arch, insert_locations=()).eval().double()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    names = {'depthwise_conv': 'dwconv', 'pointwise_conv1': 'pwconv1', 'pointwise_conv2': 'pwconv2',
             'downsample_layers.0': 'stem', 'downsample_layers': 'downsamples'}
    weights = {}
    for key, value in theirs.state_dict().items():
        for name, new in names.items():
            key = key.replace(name, new)
        weights[f'out_norms.{key[4:]}' if key.startswith('norm') else key] = value
    ours.load_state_dict(weights)
    x = torch.randn(1, 3, 70, 64, dtype=torch.float64)
    with torch.no_grad():
        for a, b in zip(ours(x), theirs(x)):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# ---- arguments ----


@pytest.mark.parametrize('locations', [(3, 4, 3), (3, 4, -1, 2), 3])
def test_insert_locations_that_do_not_fit_are_named(family, locations):
    number = 7 if family is ParCMobileNetV2 else 4
    with pytest.raises(ValueError, match=rf'insert_locations=.* is not allowed; give {number} indices'):
        family(insert_locations=locations)


def test_blocks_that_halve_the_map_keep_their_convolution():
    with torch.device('meta'):
        assert places(ParCResNet(insert_locations=(0, 0, 0, 0))) == [
            f'{stage}.{block}' for stage, depth in enumerate((3, 4, 6, 3)) for block in range(depth) if stage == 0 or block]
        rows = places(ParCMobileNetV2(insert_locations=(0, ) * 7))
    assert rows == [
        '1.depthwise', '0.1', '1.1', '1.2', '2.1', '2.2', '2.3', '2.4', '2.5', '2.6', '3.1', '3.2', '3.3'
    ]


@pytest.mark.parametrize('arguments, message', [
    (lambda: ParCResNet(34), 'depth=34 is unknown; choose from 50'),
    (lambda: ParCConvNeXt('huge'), "arch='huge' is unknown; choose from xtiny, tiny"),
    (lambda: ParCMobileNetV2(0), 'widen_factor=0 is not allowed; choose a number above 0'),
    (lambda: ParCResNet(backend='winograd'), "backend='winograd' is unknown"),
])
def test_bad_argument_is_one_error_that_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        arguments()


def test_widen_factor_scales_as_torchvisions():
    with torch.device('meta'):
        ours = ParCMobileNetV2(0.35, insert_locations=())
        theirs = mobilenet_v2(width_mult=0.35)

    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.features.parameters())
    assert ours.out_channels == (8, 16, 32, 1280)


def test_release_form_of_convnext_has_no_output_norms():
    with torch.device('meta'):
        assert not any(key.startswith('out_norms') for key in ParCConvNeXt(out_norm=False).state_dict())
        assert sum(key.startswith('out_norms') for key in ParCConvNeXt().state_dict()) == 8


def test_layer_scale_can_be_left_out():
    with torch.device('meta'):
        assert not any('gamma' in key for key in ParCConvNeXt(layer_scale_init_value=0).state_dict())


# ---- training ----


@pytest.mark.parametrize('kwargs', [{}, dict(insert_locations=())], ids=['parc', 'baseline'])
def test_every_parameter_gets_a_gradient(family, kwargs):
    model = build(family, **kwargs)
    maps = model(torch.randn(2, 3, 64, 64))
    sum(x.square().mean() for x in maps).backward()

    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert all(m.weight.grad.abs().sum() > 0 for m in model.modules() if isinstance(m, ParC2d))


def test_frozen_stages_and_norm_eval():
    model = build(ParCResNet, frozen_stages=1, norm_eval=True).train()

    frozen = {name.split('.')[0] + name.split('.')[1] * name.startswith('stages')
              for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {'stem', 'stages0'}
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
