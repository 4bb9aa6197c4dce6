import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_mm.backbones import ParCNet
from hybrid_mm.backbones.parc_net import AxisEmbedding, ParCFrame, ParCNetBlock
from hybrid_mm.layers import MobileInvertedResidual, ParC2d
from hybrid_mm.layers.mobile_vit import MobileViTBlock

TINY = dict(
    stem_channels=4, stem_kernel_size=3, stem_out_channels=8, expansion=2, concat=True,
    depths=(2, 1, 1, 1, 1), channels=(8, 8, 12, 12, 16), base_sizes=(0, 8, 4, 2, 0),
    parc_channels=(0, 16, 16, 16, 0), parc_depths=(0, 2, 1, 1, 0),
    transformer_channels=(0, 8, 12, 12, 0), transformer_depths=(0, 2, 1, 1, 0), baseline_channels=(8, 8, 8, 8, 12))
PARC, BASELINE = (2, 0, 0, 0), ()


def build(insert_locations=PARC, arch=TINY, **kwargs):
    torch.manual_seed(0)
    model = ParCNet(copy.deepcopy(arch), insert_locations, **kwargs)
    model.init_weights()
    return model


def count(model):
    return sum(p.numel() for p in model.parameters())


def randomise(module):
    """Other norm scales and running statistics than the ones that all norms start with."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if name.endswith('running_var') else 0.3 * torch.randn_like(value))
            if value.ndim == 1 and name.endswith('weight'):
                value.add_(1)
    return module


@pytest.mark.parametrize('arch, last_channels, with_head', [
    ('xs', 640, 2_185_384), ('s', 640, 5_037_088), ('h', 960, 20_403_940)
])
def test_parc_net_has_the_released_number_of_parameters(arch, last_channels, with_head):
    with torch.device('meta'):
        model = ParCNet(arch, out_indices=(4, ))
    assert model.out_channels == (last_channels, )
    assert count(model) + 1000 * (last_channels + 1) == with_head


def test_position_embeddings_and_gates_have_the_parameters_of_the_release():
    with torch.device('meta'):
        model = ParCNet('s')
    embeddings = sum(p.numel() for name, p in model.named_parameters() if name.endswith('pos_embed'))
    gates = sum(count(block.ca) for frame in model.modules() if isinstance(frame, ParCFrame) for block in frame.blocks)
    assert (embeddings, gates) == (25_600, 85_416)


@pytest.mark.parametrize('arch, channels', [('xs', (64, 96, 128, 160)), ('s', (64, 96, 128, 160)),
                                            ('h', (144, 216, 288, 432))])
def test_default_outputs_are_layer_2_to_layer_5(arch, channels):
    with torch.device('meta'):
        model = ParCNet(arch)
        outs = model.eval()(torch.zeros(1, 3, 256, 256))
    assert model.out_channels == channels
    assert [tuple(out.shape) for out in outs] == [(1, c, 256 // s, 256 // s) for c, s in zip(channels, (4, 8, 16, 32))]


@pytest.mark.parametrize('insert_locations', [PARC, BASELINE, (2, 1, 0, 1)], ids=str)
@pytest.mark.parametrize('size', [(64, 64), (96, 64), (77, 51), (32, 33)], ids=str)
def test_maps_have_ceil_sizes_and_are_contiguous(insert_locations, size):
    model = build(insert_locations, out_indices=(0, 1, 2, 3, 4)).eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, *size))
    channels = TINY['channels' if insert_locations else 'baseline_channels']
    assert [tuple(out.shape) for out in outs] == [
        (1, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(channels, (4, 8, 16, 32, 32))]
    assert all(out.is_contiguous() and torch.isfinite(out).all() for out in outs)
    assert model.out_channels == channels


def test_fifth_output_is_at_stride_32_and_counts_from_the_end():
    x = torch.randn(2, 3, 32, 64)
    last, = build(out_indices=(-1, )).eval()(x)
    full = build(out_indices=range(5)).eval()(x)
    assert torch.equal(last, full[4])
    with pytest.raises(ValueError, match='31x64 pixels, less than the stride of 32'):
        build(out_indices=(4, ))(torch.zeros(1, 3, 31, 64))


def test_convolution_in_front_of_the_classifier_trains_only_if_returned():
    x = torch.randn(2, 3, 64, 64)
    for out_indices, used in (((0, 1, 2, 3), False), ((4, ), True)):
        model = build(out_indices=out_indices)
        sum(out.square().sum() for out in model(x)).backward()
        assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
        assert all(p.requires_grad == used for p in model.stages[4].parameters())


def circular(x, layer):
    """The definition: tap k sees the position k ahead, around the end; kernel and embedding resized to the map."""
    dim = 2 if layer.axis == 'H' else 3

    def resize(t):
        size = (x.shape[2], 1) if dim == 2 else (1, x.shape[3])
        return F.interpolate(t, size, mode='bilinear', align_corners=True)

    if layer.pos_embed is not None:
        x = x + resize(layer.pos_embed)
    weight = resize(layer.weight)[:, 0]
    taps = weight.unbind(dim - 1)
    return sum(tap.unsqueeze(-1) * x.roll(-k, dim) for k, tap in enumerate(taps))


@pytest.mark.parametrize('size', [(6, 6), (5, 8), (9, 4)], ids=str)
@pytest.mark.parametrize('pos_embed', [True, False])
def test_block_computes_its_definition_with_height_and_width_resized_apart(size, pos_embed):
    torch.manual_seed(0)
    block = randomise(ParCNetBlock(32, 6, pos_embed, 0.1, nn.BatchNorm2d)).double().eval()
    x = torch.randn(2, 32, *size, dtype=torch.float64)
    first, second = x[:, :16], x[:, 16:]
    a, b = first, second
    if pos_embed:
        a = a + F.interpolate(block.embed_h.pos_embed, (size[0], 1), mode='bilinear', align_corners=True)
        b = b + F.interpolate(block.embed_w.pos_embed, (1, size[1]), mode='bilinear', align_corners=True)
    a = circular(circular(block.norm_h(a), block.h1), block.w2)
    b = circular(circular(block.norm_w(b), block.w1), block.h2)
    z = torch.cat([first + a, second + b], 1)
    u = block.ffn(z)
    gate = block.ca.fc(F.adaptive_avg_pool2d(u, 1))
    torch.testing.assert_close(block(x), z + u * gate, rtol=1e-10, atol=1e-10)


def test_embedding_is_exact_at_its_base_size_and_constant_across():
    layer = AxisEmbedding(4, 'W', 6)
    out = layer(torch.zeros(2, 4, 3, 6))
    assert torch.equal(out, layer.pos_embed.expand(2, 4, 3, 6))
    assert layer(torch.zeros(2, 4, 3, 6, dtype=torch.float16)).dtype == torch.float16


@pytest.mark.parametrize('concat', [True, False])
def test_frame_fuses_with_its_input_by_concatenation_or_sum(concat):
    torch.manual_seed(0)
    frame = ParCFrame(8, 16, 1, 4, concat, 0., nn.BatchNorm2d).eval()
    x = torch.randn(1, 8, 4, 4)
    nn.init.zeros_(frame.project[0].weight)  # the fusion sees its input alone
    weight = frame.fuse[0].weight
    seen = weight[:, 8:] if concat else weight
    expected = F.silu(frame.fuse[1](F.conv2d(x, seen, padding=1)))
    torch.testing.assert_close(frame(x), expected)


def test_only_the_first_block_of_a_frame_has_position_embeddings():
    with torch.device('meta'):
        model = ParCNet('s')
    expected = {
        f'stages.{s}.0.blocks.0.{part}.pos_embed': shape
        for s, c, k in ((1, 96, 32), (2, 128, 16), (3, 160, 8))
        for part, shape in (('embed_h', (1, c, k, 1)), ('embed_w', (1, c, 1, k)), ('w2', (1, c, 1, k)), ('h2', (1, c, k, 1)))
    }
    state = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert {name: shape for name, shape in state.items() if name.endswith('pos_embed')} == expected
    assert len([name for name in state if name.endswith('h1.weight')]) == 2 + 4 + 3
    assert not any(module.bias is not None for module in model.modules() if isinstance(module, ParC2d))


@pytest.mark.parametrize('arch, with_head', [('xs', 2_317_848), ('s', 5_578_632), ('h', 33_175_396)])
def test_baseline_has_the_parameters_of_mobilevit(arch, with_head):
    with torch.device('meta'):
        model = ParCNet(arch, insert_locations=(), out_indices=(4, ))
    assert not any(isinstance(module, ParC2d) for module in model.modules())
    assert count(model) + 1000 * (model.out_channels[0] + 1) == with_head


@pytest.mark.parametrize('arch, theirs', [('s', 'small'), ('xs', 'x_small')])
def test_baseline_computes_what_mobilevit_of_mmpretrain_computes(arch, theirs):
    from mmpretrain.models.backbones import MobileViT
    torch.manual_seed(0)
    reference = randomise(MobileViT(theirs, out_indices=(1, 2, 3, 4)).double())
    reference.eval()  # returns None
    last = []  # what goes into the convolution in front of the classifier; it is not among their outputs
    reference.layers[4].register_forward_hook(lambda module, args, out: last.append(out))
    model = ParCNet(arch, insert_locations=(), out_indices=range(5)).double().eval()
    layers = reference.layers
    parts = [(model.stem[0], reference.stem), (model.stem[1], layers[0][0]), (model.stages[4][0], reference.conv_1x1_exp)]
    for i in range(4):
        parts += zip([model.downsamples[i], *model.stages[i]], layers[i + 1], strict=True)
    for ours, other in parts:  # both list their tensors in the order of the data's flow
        ours.load_state_dict(dict(zip(ours.state_dict(), other.state_dict().values(), strict=True)))
    assert count(model) == count(reference)
    for size in ((64, 64), (70, 97)):
        x = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            outs, (*expected, final) = model(x), reference(x)
        for ours, other in zip(outs, [*expected, last[-1], final], strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('locations, frames, names', [
    ((2, 0, 0, 0), [ParCFrame] * 3, 'channels'),
    ((2, 1, 0, 3), [MobileViTBlock, ParCFrame, MobileViTBlock], 'channels'),
    ((2, 1, 1, 1), [MobileViTBlock] * 3, 'baseline_channels'),
    ((9, 1, 1, 1), [MobileViTBlock] * 3, 'baseline_channels'),
    ((), [MobileViTBlock] * 3, 'baseline_channels'),
    ([], [MobileViTBlock] * 3, 'baseline_channels'),
])
def test_insert_locations_choose_the_frames(locations, frames, names):
    model = build(locations)
    assert [type(blocks[0]) for blocks in model.stages[1:4]] == frames
    assert all(isinstance(block, MobileInvertedResidual) for block in model.stages[0])
    assert model.out_channels == TINY[names][:4]


@pytest.mark.parametrize('kwargs, message', [
    (dict(insert_locations=(1, 0, 0, 0)), r'insert_locations=\(1, 0, 0, 0\) is not allowed: the 2 blocks of stage 0'),
    (dict(insert_locations=(2, 0, 0)), r'insert_locations=\(2, 0, 0\) is not allowed'),
    (dict(insert_locations=(2, 0, 0, 0, 0)), r'insert_locations=\(2, 0, 0, 0, 0\) is not allowed'),
    (dict(insert_locations=(2, 0, 0, -1)), r'insert_locations=\(2, 0, 0, -1\) is not allowed'),
    (dict(dropout=1.), 'dropout=1.0 is not allowed; choose from 0 to below 1'),
    (dict(out_indices=(5, )), r'out_indices=\(5,\) is not allowed; choose one or more from -5 to 4'),
    (dict(frozen_stages=6), 'frozen_stages=6 is not allowed'),
    (dict(arch='m'), "arch='m' is unknown; choose from xs, s, h"),
    (dict(arch=dict(TINY, parc_channels=(0, 15, 16, 16, 0))), 'channels=15 is odd'),
    (dict(arch=dict(TINY, transformer_channels=(0, 10, 8, 8, 0)), insert_locations=()), 'width=10 is not allowed'),
    (dict(arch=dict(TINY, depths=(2, 2, 1, 1, 1))), r'depths=\(2, 2, 1, 1, 1\) is not allowed; choose \(n, 1, 1, 1, 1\)'),
])
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ParCNet(**{'arch': copy.deepcopy(TINY), **kwargs})


def test_initialisation_is_the_releases():
    model = build(arch='s')
    frame = model.stages[3][0]
    assert frame.blocks[0].h1.weight.abs().max() <= 8**-0.5  # nn.Conv2d's bound, one over the root of the fan-in of 8
    for layer in frame.modules():
        if isinstance(layer, ParC2d):
            assert 0.95 < layer.weight.std() * 24**0.5 < 1.05
            assert layer.pos_embed is None or 0.9 < layer.pos_embed.std() < 1.1
    assert 0.9 < frame.blocks[0].embed_w.pos_embed.std() < 1.1
    for conv in (frame.fuse[0], frame.local[1], frame.blocks[0].ffn[1], model.downsamples[3].expand[0]):
        fan_out = conv.weight.shape[0] * conv.weight[0, 0].numel()
        assert 0.98 < conv.weight.std() * (fan_out / 2)**0.5 < 1.02
        assert conv.bias is None or not conv.bias.any()
    assert all((m.weight == 1).all() and not m.bias.any() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_drop_path_rises_linearly_to_the_last_frame():
    for insert_locations in (PARC, BASELINE):
        model = build(insert_locations, drop_path_rate=0.4)
        blocks = [*model.stages[0], *(frame.blocks[-1] for frame, in model.stages[1:4])]
        rates = [getattr(block.drop_path, 'drop_prob', 0.) for block in blocks]
        assert rates == pytest.approx([0., 0.1, 0.2, 0.3, 0.4])


def test_dropout_reaches_every_feed_forward_network():
    for insert_locations, number in ((PARC, 4), (BASELINE, 4)):
        dropouts = [m.p for m in build(insert_locations, dropout=0.2).modules() if isinstance(m, nn.Dropout)]
        assert dropouts == [0.2] * number


@pytest.mark.parametrize('insert_locations', [PARC, BASELINE], ids=str)
def test_float16_trains_with_finite_gradients(insert_locations):
    model = build(insert_locations)
    with torch.autocast('cpu', dtype=torch.float16):
        loss = sum(out.float().square().mean() for out in model(torch.randn(2, 3, 48, 64)))
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_layer_depth_counts_five_stages():
    model = build()
    depth = {name: model.get_layer_depth('backbone.' + name, 'backbone.') for name in (
        'stem.1.expand.0.weight', 'downsamples.0.expand.0.weight', 'stages.0.1.expand.0.weight', 'stages.1.0.norm.weight',
        'downsamples.3.expand.0.weight', 'stages.4.0.0.weight')}
    assert [d for d, _ in depth.values()] == [0, 1, 2, 3, 5, 6] and {n for _, n in depth.values()} == {8}
