"""Parameters and MACs: published figures of detectors and segmentors, the tables of our networks, and each operator."""
import math
import os.path as osp

import mmdet
import mmseg
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import CARAFEPack, DeformConv2dPack, ModulatedDeformConv2dPack, RoIAlign
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config, ConfigDict
from torch import nn

import hybrid_mm
from hybrid_mm.analysis.complexity import COLUMNS, complexity, default_shape
from hybrid_mm.analysis.mac_counter import counting
from hybrid_mm.backbones import GLiT
from hybrid_mm.engine import SetupError
from hybrid_mm.layers import ParC2d, SelfOptimalTransport2d
from hybrid_mm.layers.transport import plain, sinkhorn
from hybrid_mm.search import CostModel

STOCK = [  # config, M parameters, G MACs: what mmengine counts, which rounds to what the authors print
    (mmdet, 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 44.40, 259.79),
    (mmdet, 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco', 47.79, 267.01),
    (mmdet, 'convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco', 48.10, 262.29),
    (mmdet, 'convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco', 85.93, 740.84),
    (mmseg, 'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512', 59.94, 945.66),
    (mmseg, 'convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512', 60.24, 939.69),
]
OURS = [  # config, changes of the backbone, parameters with the classifier, G MACs: convolutions and linear layers; attention
    ('imagenet_transcnn_s', {}, 13_315_976, 2.57, 0.28),
    ('imagenet_transcnn_b', {}, 26_538_824, 5.17, 0.48),
    ('imagenet_transcnn_s', dict(h_mhsa='iterative'), 17_385_480, 2.47, 0.11),
    ('imagenet_hatnet_t', {}, 12_655_912, 1.97, 0.16),
    ('imagenet_setformer_m', {}, 16_620_904, 2.09, 0.21),
    ('imagenet_setformer_m', dict(num_references=(196, 196, 196, 49)), 16_950_184, 2.09, 0.79),
    ('imagenet_glit_t', {}, 7_264_456, 1.473 - 0.097, 0.097),
    ('imagenet_parc_r50', {}, 23_737_640, 3.942, 0),
    ('imagenet_parc_r50_baseline', {}, 25_557_032, 4.089, 0),
    ('imagenet_parc_mbv2', {}, 3_532_136, 0.302, 0),
    ('imagenet_parc_convnext_xt', {}, 7_412_824, 1.139, 0),
    ('imagenet_parcnet_s', {}, 5_037_088, 1.657, 0),
]


@pytest.fixture(scope='module')
def count():
    """Complexity of one of our configs with another backbone."""

    def count(name, shape=None, **backbone):
        cfg = Config.fromfile(hybrid_mm.config_path(f'{name}.py'))
        cfg.model.backbone.update(backbone)
        return complexity(cfg, shape)

    return count


def macs_of(run, *inputs, **parts):
    """Kinds of work of a function of tensors."""
    inputs = [x.to('meta') for x in inputs]
    parts = {name: part.to('meta').eval() for name, part in parts.items()}
    with counting(parts, inputs[0]) as counter:
        counter.mark(inputs)
        run(*inputs)
    return {kind: macs for counts in counter.counts.values() for kind, macs in counts.items()}


@pytest.mark.parametrize('library, name, parameters, macs', STOCK)
def test_published_costs_of_detectors_and_segmentors(library, name, parameters, macs):
    result = complexity(Config.fromfile(osp.join(osp.dirname(library.__file__), '.mim', 'configs', f'{name}.py')))
    assert result.total.parameters / 1e6 == pytest.approx(parameters, abs=0.006)
    assert result.total.column() / 1e9 == pytest.approx(macs, abs=0.006)
    assert sum(part.column() for part in result.parts) == result.total.column()
    assert sum(part.parameters for part in result.parts) == result.total.parameters
    assert result.part('backbone').column('attention') == result.total.column('attention')
    if library is mmseg:
        assert result.part('auxiliary_head').parameters > 0 == result.part('auxiliary_head').column()
    if 'cascade' in name:
        stages = [result.part(f'roi_head.mask_head.{i}').column() for i in range(3)]
        assert stages == [pytest.approx(52.986e9, rel=1e-4)] * 3  # as in Mask R-CNN, 100 boxes each


def test_swin_in_mask_rcnn_by_part():
    name = osp.join(osp.dirname(mmdet.__file__), '.mim', 'configs', f'{STOCK[1][1]}.py')
    result = complexity(Config.fromfile(name))
    assert result.part('backbone').column() / 1e9 == pytest.approx(95.997, abs=0.001)
    features = sum(result.part(name).column() for name in ('backbone', 'neck', 'rpn_head'))
    assert features / 1e9 == pytest.approx(199.72, abs=0.005)
    assert [part.name for part in result.parts][:3] == ['backbone.patch_embed', 'backbone.stages.0', 'backbone.norm0']
    lines = result.table().splitlines()
    assert [line.split()[0] for line in lines if line[:1].isalpha()] == ['backbone', 'neck', 'rpn_head', 'roi_head', 'total']
    assert lines[-1].split() == ['total', '47.795', '267.009', '263.448', '3.105', '0.455', '0.000']


@pytest.mark.parametrize('name, backbone, parameters, linear, attention', OURS)
def test_costs_of_our_networks_are_those_of_their_tables(count, name, backbone, parameters, linear, attention):
    result = count(name, **backbone)
    assert result.total.parameters == parameters
    assert result.total.column('conv + linear') / 1e9 == pytest.approx(linear, rel=0.01)
    assert result.total.column('attention') / 1e9 == pytest.approx(attention, rel=0.01, abs=0.005)


def test_setformer_in_a_detector(count):
    backbone = count('maskrcnn_setformer_m').part('backbone')
    assert backbone.column('conv + linear') / 1e9 == pytest.approx(42.7, rel=0.005)
    assert backbone.column('attention') / 1e9 == pytest.approx(4.3, rel=0.005)


@pytest.mark.parametrize('name, mode, shape', [('imagenet_glit_t', 'image', (224, 224)),
                                               ('maskrcnn_glit_t', 'dense', (800, 1344))])
def test_glit_costs_what_its_formulae_say(count, name, mode, shape):
    result = count(name, shape)
    backbone = result.part('backbone')
    candidate = [tuple(row) for row in GLiT.arch_settings['tiny']['blocks']]
    formula = CostModel(mode=mode, image_size=shape)
    assert backbone.column('conv + linear') + backbone.column('attention') == formula.macs(candidate)
    assert backbone.parameters == formula.parameters(candidate)
    if mode == 'dense':
        blocks = backbone.column('conv + linear') - result.part('backbone.stem').column('conv + linear')
        assert (blocks / 1e9, backbone.column('attention') / 1e9) == pytest.approx((28.7, 34.4), rel=0.01)


def test_sinkhorn_is_apart_from_the_transport():
    layer = SelfOptimalTransport2d(64, num_references=9, iterations=4)
    assert layer.num_heads == 2
    found = macs_of(layer, torch.empty(1, 64, 8, 10), layer=layer)
    pairs = 80 * 9
    # similarity, pooling, scattering; two half steps an iteration, and the two sums that weights are divided by
    assert found == dict(linear=2 * 80 * 64**2, attention=3 * pairs * 64, Sinkhorn=(2 * 4 + 2) * 2 * pairs)


@pytest.mark.parametrize('backend', ['auto', 'direct', 'gemm'])
def test_depthwise_parc_has_a_product_a_tap(backend):
    layer = ParC2d(8, 'W', 14, backend=backend)
    found = macs_of(layer, torch.empty(1, 8, 20, 20), layer=layer)
    assert found == {'linear' if backend == 'gemm' else 'convolution': 8 * 20**3}


@pytest.mark.parametrize('depthwise', [True, False])
def test_fast_parc_has_transforms_and_products_of_spectra(depthwise):
    layer = ParC2d(8, 'H', 14, depthwise=depthwise, backend='fft')
    found = macs_of(layer, torch.empty(1, 8, 14, 14), layer=layer)
    transforms = 2 * 1.25 * 8 * 14 * 14 * math.log2(14)  # there and back
    products = 3 * 8 * 8 * 14 if depthwise else 4 * 8 * 8 * 8 * 14  # 14 // 2 + 1 frequencies
    assert found == dict(FFT=pytest.approx(transforms + products, abs=2))


def test_fused_attention_counts_what_plain_products_count():
    q, k, v = torch.empty(2, 3, 10, 8), torch.empty(2, 3, 7, 8), torch.empty(2, 3, 7, 4)
    plain = macs_of(lambda q, k, v: (q @ k.transpose(-1, -2)).softmax(-1) @ v, q, k, v)
    by_einsum = macs_of(lambda q, k, v: torch.einsum('bhqk,bhkc->bhqc', torch.einsum('bhqc,bhkc->bhqk', q, k), v), q, k, v)
    masked = macs_of(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, q.new_empty(10, 7) > 0), q, k, v)
    assert plain == by_einsum == masked == dict(attention=2 * 3 * 10 * 7 * (8 + 4))


def test_a_product_with_weights_is_no_attention():
    weight = nn.Linear(6, 5)  # as a part, so that it is on the meta device
    x = torch.empty(2, 4, 6)
    expected = dict(linear=2 * 4 * 6 * 5)
    assert macs_of(weight, x, weight=weight) == expected
    assert macs_of(lambda x: torch.einsum('bnc,oc->bno', x, weight.weight), x, weight=weight) == expected
    assert macs_of(lambda x: torch.bmm(x, (2 * weight.weight.T).expand(2, -1, -1)), x, weight=weight) == expected
    assert macs_of(lambda x: x @ weight.weight[0], x, weight=weight) == dict(linear=2 * 4 * 6)
    assert macs_of(lambda x: (weight.weight @ weight.weight.T) * x.sum(), x, weight=weight) == {}


def test_a_result_written_into_a_slice_is_a_feature():
    def attention(x):
        out = torch.zeros(2, 4, 8, device='meta')
        torch.add(x, x, out=out[..., :6])
        return out @ out.transpose(1, 2)

    assert macs_of(attention, torch.empty(2, 4, 6)) == dict(attention=2 * 4 * 4 * 8)


def test_convolutions():
    x = torch.empty(2, 8, 9, 11)
    grouped = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=4)
    assert macs_of(grouped, x, conv=grouped) == dict(convolution=2 * 12 * 5 * 6 * 2 * 9)
    transposed = nn.ConvTranspose2d(8, 4, 2, stride=2)
    assert macs_of(transposed, x, conv=transposed) == dict(convolution=2 * 9 * 11 * 8 * 4 * 4)


@pytest.mark.parametrize('kind, channels, products', [(DeformConv2dPack, 18, 4), (ModulatedDeformConv2dPack, 27, 5)])
def test_deformable_convolutions_of_mmcv(kind, channels, products):
    layer = kind(8, 12, 3, stride=2, padding=1)
    positions, taps = 5 * 6, 8 * 9
    assert macs_of(layer, torch.empty(1, 8, 9, 11), layer=layer) == dict(
        convolution=positions * taps * (12 + channels), resize=positions * taps * products)


def test_other_operators_of_mmcv():
    upsample = CARAFEPack(8, 2, compressed_channels=4)
    found = macs_of(upsample, torch.empty(1, 8, 5, 6), layer=upsample)
    assert found['resize'] == 8 * 10 * 12 * 5**2
    align = RoIAlign(7, 1.0, 0)
    image, boxes = torch.empty(1, 8, 16, 16, device='meta'), torch.empty(3, 5, device='meta')
    with counting({}, image) as counter:
        assert align(image, boxes).shape == (3, 8, 7, 7)
    assert counter.uncounted == {'RoIAlign'} and not any(counter.counts.values())


class Mixture(nn.Module):
    """What mmengine's counter knows."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2)
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False), nn.GroupNorm(2, 8), nn.InstanceNorm2d(8, affine=True)])
        self.layer_norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 4)

    def forward(self, x):
        x = self.conv(x)
        for norm in self.norms:
            x = norm(x)
        small = F.adaptive_avg_pool2d(x, 3)
        x = x + F.interpolate(small, x.shape[2:], mode='bilinear') + F.interpolate(F.adaptive_avg_pool2d(x, 1), x.shape[2:])
        x = self.layer_norm(x.flatten(2).transpose(1, 2))
        return torch.bmm(x, x.transpose(1, 2)) @ self.linear(x)


def test_the_sum_is_that_of_mmengine():
    model = Mixture().eval()
    expected = get_model_complexity_info(model, (3, 33, 37), show_table=False, show_arch=False)['flops']
    assert sum(macs_of(model, torch.empty(1, 3, 33, 37), model=model).values()) == expected


def test_a_forward_that_is_called_directly_belongs_to_its_part():
    parts = dict(a=nn.ModuleList([nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 2)])]), b=nn.Linear(2, 8))
    x = torch.empty(3, 4, device='meta')
    for part in parts.values():
        part.to('meta')
    with counting(parts, x) as counter:
        y = parts['b'].forward(parts['a'][1][0](parts['a'][0](x)))
        y @ y.T
    assert counter.counts == {'a': dict(linear=3 * 4 * 6), 'b': dict(linear=3 * 2 * 8), 'rest': dict(attention=3 * 8 * 3)}


def test_nothing_stays_changed(count):
    from mmcv.ops.roi_align import RoIAlignFunction

    def patched():
        return [RoIAlignFunction.forward,
                *(getattr(module, f'times_{name}') for module in (sinkhorn, plain) for name in ('rows', 'columns'))]

    before = patched()
    layers = nn.ModuleDict(dict(parc=ParC2d(2, 'H', 4), transport=SelfOptimalTransport2d(32, 9))).to('meta')
    with counting(dict(layers=layers), torch.empty(1, 2, 4, 4, device='meta')):
        assert layers.parc.backend == 'direct'
        assert RoIAlignFunction.forward is not before[0]
    assert patched() == before
    assert all(layer.backend == 'auto' and 'forward' not in vars(layer) for layer in layers.values())


def test_weights_are_neither_made_nor_looked_for():
    cfg = Config.fromfile(hybrid_mm.config_path('imagenet_parcnet_xs.py'))
    cfg.model.backbone.init_cfg = dict(type='hybrid_mm.Released', checkpoint='https://localhost/no.pth')
    assert complexity(cfg, (64, 96)).shape == (64, 96)


@pytest.mark.parametrize('name, shape', [('imagenet_transcnn_s', (256, 256)), ('imagenet_glit_t', (224, 224)),
                                         ('maskrcnn_glit_t', (800, 1280)), ('upernet_glit_t', (512, 2048))])
def test_default_shapes_are_those_of_papers(name, shape):
    assert default_shape(Config.fromfile(hybrid_mm.config_path(f'{name}.py'))) == shape


@pytest.mark.parametrize('shape', [(31, 64), (64, 16), (64, ), (64, 64, 64), (-64, 64)])
def test_a_shape_that_is_too_small_is_refused(shape):
    cfg = ConfigDict(default_scope='mmdet', model=dict(type='MaskRCNN'))
    with pytest.raises(SetupError, match=f'^shape {" ".join(map(str, shape))} is not allowed; .* each 32 or more$'):
        complexity(cfg, shape)


def test_a_config_without_a_model_is_refused():
    with pytest.raises(SetupError, match='^the config has no model; give the config of a detector'):
        complexity(ConfigDict(default_scope='mmdet'))


def test_a_cascade_of_another_kind_is_refused():
    cfg = Config.fromfile(osp.join(osp.dirname(mmdet.__file__), '.mim', 'configs', 'htc', 'htc_r50_fpn_1x_coco.py'))
    with pytest.raises(SetupError, match='^roi_head of type HybridTaskCascadeRoIHead cannot be counted; known are Standard'):
        complexity(cfg, (64, 64))


class NeedsValues(nn.Module):

    def forward(self, inputs, mode):
        return inputs[inputs > 0.5]


def test_a_network_that_needs_values_is_refused():
    from mmpretrain.registry import MODELS
    MODELS.register_module(module=NeedsValues, force=True)
    with pytest.raises(SetupError, match='^NeedsValues cannot be counted, as it needs values of features'):
        complexity(ConfigDict(default_scope='mmpretrain', model=dict(type='NeedsValues')))


def test_what_is_in_no_part_is_the_rest():
    backbone = dict(type='VisionTransformer', arch='deit-t', img_size=32, patch_size=16)
    head = dict(type='VisionTransformerClsHead', num_classes=10, in_channels=192)
    cfg = ConfigDict(default_scope='mmpretrain', model=dict(type='ImageClassifier', backbone=backbone, head=head))
    result = complexity(cfg, (32, 32))
    names = [part.name for part in result.parts]
    assert names[0] == 'backbone.patch_embed' and names[-2:] == ['backbone.rest', 'head']
    assert result.part('backbone.rest') == ('backbone.rest', 192 + 5 * 192, {})  # class token and positions
    assert [line.split()[0] for line in result.table().splitlines()][-4:-2] == ['rest', 'head']


def test_the_numbers_as_json(count):
    result = count('imagenet_parcnet_xs', (64, 64))
    found = result.as_dict()
    assert found['shape'] == [64, 64] and found['parameters'] == 2_185_384 and found['macs'] == result.total.column()
    assert sum(found['columns'].values()) == sum(found['operators'].values()) == found['macs']
    assert list(found['columns']) == list(COLUMNS)
    assert sum(part['macs'] for part in found['parts'].values()) == found['macs']
    with pytest.raises(KeyError):
        result.part('neck')
