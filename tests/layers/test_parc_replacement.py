"""ParC in the place of layers of models that know nothing of it: torch's, torchvision's, timm's way of writing, and mm*'s."""
import copy
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import load_state_dict as mmengine_load
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from hybrid_mm.layers import ParCHW, replace_with_parc
from hybrid_mm.layers.parc.stand_ins import ParCForAttention, seed_taps


class TimmLike(nn.Module):
    """Depthwise blocks named and built as timm's, with channels, kernel and stride to choose."""

    def __init__(self, channels=6, kernel_size=5, stride=1, **conv_args):
        super().__init__()
        padding = conv_args.pop('padding', kernel_size // 2)
        self.stem = nn.Conv2d(1, channels, 4, stride=4)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(dict(
                conv_dw=nn.Conv2d(channels, channels, kernel_size, stride, padding, groups=channels, **conv_args),
                conv_pw=nn.Conv2d(channels, channels, 1))) for _ in range(2))

    def forward(self, x):
        x = self.norm(self.stem(x))
        for block in self.blocks:
            x = block['conv_pw'](block['conv_dw'](x)).relu()
        return x


class TinyViT(nn.Module):
    """torch's own transformer on patches, with tokens in front."""

    def __init__(self, extra=0, batch_first=True):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.extra = nn.Parameter(torch.randn(1, extra, 8))
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0., batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.batch_first = batch_first

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.extra.expand(len(x), -1, -1), x], 1)
        if self.batch_first:
            return self.encoder(x)
        return self.encoder(x.transpose(0, 1)).transpose(0, 1)


def mm(type, **kwargs):
    init_default_scope('mmpretrain')
    return MODELS.build(dict(type=f'mmpretrain.{type}', **kwargs))


def tiny_convnext():
    return mm('ConvNeXt', arch=dict(depths=[1, 1, 2, 1], channels=[8, 12, 16, 24]), out_indices=(0, 1, 2, 3),
              gap_before_final_norm=False)


def tiny_mobilenet():
    return mm('MobileNetV2', widen_factor=0.25, out_indices=(1, 2, 4, 7))


def tiny_vit(type='VisionTransformer', **kwargs):
    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)
    return mm(type, arch=arch, img_size=64, **kwargs)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# The operator's start


@pytest.mark.parametrize('kernel_size, size, dilation', [(3, 7, 1), (7, 8, 1), (5, 9, 2), (7, 4, 1), (7, 3, 2)])
def test_seed_is_the_circular_convolution_by_the_kernels_column(kernel_size, size, dilation):
    taps = torch.randn(3, kernel_size, dtype=torch.float64)
    x = torch.randn(3, size, dtype=torch.float64)
    seed = seed_taps(taps, size, dilation)
    position = torch.arange(size)
    ring = torch.stack([(seed * x[:, (i + position) % size]).sum(1) for i in position], 1)
    expected = sum(
        taps[:, k, None] * x[:, (position + (k - kernel_size // 2) * dilation) % size] for k in range(kernel_size))
    torch.testing.assert_close(ring, expected)


def test_cross_shaped_kernel_is_reproduced_away_from_the_border():
    torch.manual_seed(0)
    host = TimmLike(channels=6, kernel_size=5)
    with torch.no_grad():
        for block in host.blocks:
            weight = block['conv_dw'].weight
            mask = torch.zeros_like(weight)
            mask[:3, :, :, 2] = 1  # the central column is all that the first half has
            mask[3:, :, 2] = 1
            weight.mul_(mask)
    conv = host.blocks[0]['conv_dw']
    replace_with_parc(host, ['blocks.0.conv_dw'], (44, 36), init='from_kernel')
    x = torch.randn(2, 6, 11, 9)
    torch.testing.assert_close(host.blocks[0]['conv_dw'](x)[..., 2:-2, 2:-2], conv(x)[..., 2:-2, 2:-2])
    ring = F.conv2d(F.pad(x, (2, 2, 2, 2), mode='circular'), conv.weight, conv.bias, groups=6)
    torch.testing.assert_close(host.blocks[0]['conv_dw'](x), ring)


# Depthwise convolutions


@pytest.mark.parametrize('make, select, expected', [
    (tiny_convnext, r'^stages\.[23]', {'stages.2.0.depthwise_conv': (4, 6), 'stages.2.1.depthwise_conv': (4, 6),
                                       'stages.3.0.depthwise_conv': (2, 3)}),
    (tiny_mobilenet, r'^layer4\.[12]\.conv\.1', {'layer4.1.conv.1.conv': (4, 6), 'layer4.2.conv.1.conv': (4, 6)}),
    (lambda: ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)]),
     lambda name, layer: layer.in_channels == 12 and layer.groups == 12, {'features.3.0.block.0': (8, 12)}),
    (lambda: TimmLike(), ['blocks.1.conv_dw'], {'blocks.1.conv_dw': (16, 24)}),
])
def test_hosts_take_parc_and_say_what_was_replaced(make, select, expected, caplog):
    host = make()
    before, was = snapshot(host), dict(host.named_modules())
    modes = {name: m.training for name, m in host.named_modules()}
    with caplog.at_level(logging.INFO, 'hybrid_mm'):
        records = replace_with_parc(host, select, (64, 96))
    assert {record.name: record.base_size for record in records} == expected
    for record in records:
        assert f'{record.name}: Conv2d' in str(record) and str(record) in caplog.text
        layer = host.get_submodule(record.name)
        assert isinstance(layer, ParCHW) and (layer.h.base_size, layer.w.base_size) == record.base_size
        assert record.channels == was[record.name].out_channels == 2 * layer.h.channels
        assert (layer.h.bias is None) == (was[record.name].bias is None)
    after = snapshot(host)
    untouched = [key for key in before if key.rpartition('.')[0] not in expected]
    assert all(torch.equal(before[key], after[key]) for key in untouched)
    assert all(host.get_submodule(name).training == mode for name, mode in modes.items())

    in_channels = next(m for m in host.modules() if isinstance(m, nn.Conv2d)).in_channels
    host.train()
    outs = host(torch.randn(2, in_channels, 96, 64))
    sum(out.square().mean() for out in (outs if isinstance(outs, tuple) else [outs])).backward()
    for name in expected:
        assert all(p.grad is not None for p in host.get_submodule(name).parameters())


def test_shared_layer_is_replaced_wherever_it_stands():
    host = TimmLike()
    host.blocks[1]['conv_dw'] = host.blocks[0]['conv_dw']
    assert len(replace_with_parc(host, 'conv_dw', 64)) == 1
    assert host.blocks[1]['conv_dw'] is host.blocks[0]['conv_dw'] and isinstance(host.blocks[0]['conv_dw'], ParCHW)


@pytest.mark.parametrize('resolution', [
    {'blocks.0.conv_dw': 5, 'blocks.1.conv_dw': (4, 7)},
    lambda name: 5 if '.0.' in name else (4, 7),
])
def test_base_sizes_can_be_given_by_name(resolution):
    records = replace_with_parc(TimmLike(), 'conv_dw', resolution)
    assert [record.base_size for record in records] == [(5, 5), (4, 7)]


def test_new_layers_take_mode_dtype_and_freezing_of_the_old(caplog):
    host = TimmLike().double().eval()
    host.blocks[0]['conv_dw'].requires_grad_(False)
    replace_with_parc(host, 'conv_dw', 32)
    frozen, free = (block['conv_dw'] for block in host.blocks)
    assert not frozen.training and {p.dtype for p in host.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in frozen.parameters()) and all(p.requires_grad for p in free.parameters())
    assert 'blocks.0.conv_dw is frozen' in caplog.text and 'blocks.1' not in caplog.text


def test_conv_module_goes_without_its_shortcut_for_convolutions():
    host = tiny_mobilenet()
    conv_module = host.layer4[1].conv[1]
    conv_module.turn_on_efficient_conv_bn_eval()
    replace_with_parc(host, ['layer4.1.conv.1.conv'], 64)
    x = torch.randn(1, conv_module.in_channels, 4, 4)
    torch.testing.assert_close(conv_module.eval()(x), conv_module.activate(conv_module.norm(conv_module.conv(x))))


# The host's weights


@pytest.mark.parametrize('load', [
    lambda model, state: model.load_state_dict(state, strict=True),
    lambda model, state: mmengine_load(model, state, strict=True),
    lambda model, state: nn.ModuleDict(dict(backbone=model)).load_state_dict({f'backbone.{k}': v for k, v in state.items()}),
])
@pytest.mark.parametrize('make, select', [(tiny_convnext, r'^stages\.2'), (tiny_mobilenet, r'^layer4\.[12]\.conv\.1')])
def test_host_file_seeds_the_kernels_before_or_after(make, select, load):
    host = make()
    for parameter in host.parameters():
        nn.init.normal_(parameter)
    state = snapshot(host)
    keys = list(state)
    later = make()
    replace_with_parc(later, select, 64, init='from_kernel')
    load(later, state)
    assert list(state) == keys
    replaced = replace_with_parc(host, select, 64, init='from_kernel')
    first = host.get_submodule(replaced[0].name)
    assert first.h.weight.abs().max() > 0.5 and not first.h.pos_embed.any()
    for key, value in host.state_dict().items():
        assert torch.equal(value, later.state_dict()[key]), key


def test_random_layers_stay_when_the_host_file_comes():
    host = TimmLike()
    state = snapshot(host)
    replace_with_parc(host, 'conv_dw', 64)
    before = snapshot(host.blocks[0]['conv_dw'])
    for value in state.values():
        value.add_(1)
    host.load_state_dict(state, strict=True)
    assert all(torch.equal(before[key], value) for key, value in host.blocks[0]['conv_dw'].state_dict().items())
    assert torch.equal(host.stem.weight, state['stem.weight'])


def test_own_weights_load_into_a_copy_and_missing_ones_are_reported():
    host = TimmLike()
    replace_with_parc(host, 'conv_dw', 64, init='from_kernel')
    copies = [copy.deepcopy(host), pickle.loads(pickle.dumps(host))]
    state = {key: torch.randn_like(value) if value.is_floating_point() else value for key, value in snapshot(host).items()}
    for model in copies:
        model.load_state_dict(state, strict=True)
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    del state['blocks.1.conv_dw.h.weight']
    with pytest.raises(RuntimeError, match='blocks.1.conv_dw.h.weight'):
        host.load_state_dict(state, strict=True)


# Self-attention


@pytest.mark.parametrize('extra, batch_first', [(0, True), (1, True), (2, False)])
def test_torchs_transformer_mixes_by_parc(extra, batch_first):
    host = TinyViT(extra, batch_first).eval()
    state = snapshot(host)
    records = replace_with_parc(host, 'self_attn', (16, 24))
    assert [(record.was, record.base_size, record.init) for record in records] == [('MultiheadAttention', (4, 6), 'random')] * 2
    host.load_state_dict(state, strict=True)
    attention = host.encoder.layers[0].self_attn
    tokens = torch.randn(2, extra + 24, 8)
    given = tokens if batch_first else tokens.transpose(0, 1)
    out, weights = attention(given, given, given, need_weights=False)
    out = out if batch_first else out.transpose(0, 1)
    assert weights is None
    expected = attention.parc(tokens[:, extra:].transpose(1, 2).reshape(2, 8, 4, 6))
    torch.testing.assert_close(out[:, extra:], expected.flatten(2).transpose(1, 2))
    torch.testing.assert_close(out[:, :extra], expected.mean((2, 3))[:, None].expand(-1, extra, -1))

    image = torch.randn(1, 3, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(host(image), host.train()(image))  # evaluation takes no shortcut past ParC


def test_squares_of_any_side_follow_where_the_host_passes_no_size():
    host = TinyViT(extra=1)
    replace_with_parc(host, 'self_attn', 16)
    assert host(torch.randn(1, 3, 28, 28)).shape == (1, 50, 8)
    with pytest.raises(ValueError, match='15 tokens, 1 of them in front .* give square images'):
        host(torch.randn(1, 3, 8, 28))


def test_tokens_in_front_can_be_told():
    host = TinyViT(extra=5)
    with pytest.raises(ValueError, match='21 tokens are no map .* set extra_tokens'):
        replace_with_parc(host, 'self_attn', 16)
    replace_with_parc(host, 'self_attn', {f'encoder.layers.{i}.self_attn': 4 for i in (0, 1)}, extra_tokens=5)
    assert host(torch.randn(1, 3, 32, 32)).shape == (1, 69, 8)


@pytest.mark.parametrize('type, kwargs, extra', [
    ('VisionTransformer', dict(out_type='featmap', with_cls_token=False), 0),
    ('VisionTransformer', dict(drop_path_rate=0.1, layer_scale_init_value=0.1), 1),
    ('DistilledVisionTransformer', dict(), 2),
])
def test_mmpretrains_vision_transformers(type, kwargs, extra):
    host = tiny_vit(type, **kwargs)
    state = snapshot(host)
    records = replace_with_parc(host, r'attn$', 64)
    assert [(record.was, record.base_size) for record in records] == [('MultiheadAttention', (4, 4))] * 2
    assert host.layers[0].attn.extra_tokens == extra
    host.load_state_dict(state, strict=True)
    if 'layer_scale_init_value' in kwargs:
        assert host.layers[1].attn.out_drop.drop_prob == 0.1
        assert torch.equal(host.layers[0].attn.gamma1.weight, state['layers.0.attn.gamma1.weight'])
    image = torch.randn(2, 3, 96, 96, requires_grad=True)
    host.eval()
    out = host(image)[-1]
    out = out if torch.is_tensor(out) else out[0]
    out.square().sum().backward()
    assert (image.grad.abs().sum((0, 1)) > 0).float().mean() > 0.9  # class tokens see the whole image


@pytest.mark.parametrize('type, kwargs', [
    ('mmpretrain.SwinTransformer', dict(arch=dict(embed_dims=8, depths=[1, 2, 1, 1], num_heads=[2] * 4), window_size=4,
                                        pad_small_map=True, out_indices=(0, 1, 2, 3))),
    ('mmdet.SwinTransformer', dict(embed_dims=8, depths=[1, 2, 1, 1], num_heads=[2] * 4, window_size=4)),
    ('mmseg.MixVisionTransformer', dict(embed_dims=8, num_layers=[1, 2, 1, 1], num_heads=[2] * 4)),
])
def test_hosts_that_pass_the_map_size_take_any_image(type, kwargs):
    init_default_scope('mmpretrain')
    host = MODELS.build(dict(type=type, **kwargs))
    state = snapshot(host)
    records = replace_with_parc(host, 'attn', 64)
    assert [record.base_size for record in records] == [(16, 16), (8, 8), (8, 8), (4, 4), (2, 2)]
    host.load_state_dict(state, strict=True)
    assert [out.shape[2:] for out in host(torch.randn(1, 3, 64, 96))] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_residual_that_the_host_leaves_to_attention_stays():
    init_default_scope('mmseg')
    host = MODELS.build(dict(type='mmseg.VisionTransformer', img_size=(64, 64), embed_dims=8, num_layers=1, num_heads=2))
    replace_with_parc(host, r'\.attn$', 64)
    attention = host.layers[0].attn
    x, identity = torch.randn(2, 2, 17, 8)
    alone = attention(x, identity=torch.zeros_like(x))
    torch.testing.assert_close(attention(x, identity=identity), identity + alone)
    torch.testing.assert_close(attention(x), x + alone)


def test_attention_on_maps():

    class MapAttention(nn.Module):
        num_heads = 2

        def __init__(self, projection):
            super().__init__()
            self.qkv = projection

        def forward(self, x):
            return x

    model = nn.Sequential(nn.Conv2d(3, 6, 1), MapAttention(nn.Conv2d(6, 18, 1)))
    replace_with_parc(model, ['1'], (5, 7))
    x = torch.randn(1, 6, 5, 7)
    torch.testing.assert_close(model[1](x), model[1].parc(x))
    last = ParCForAttention(MapAttention(nn.Linear(6, 18)), (5, 7))
    torch.testing.assert_close(last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), last.parc(x))


def test_what_only_attention_can_use_is_refused():
    host = TinyViT()
    replace_with_parc(host, 'self_attn', 16)
    attention = host.encoder.layers[0].self_attn
    x = torch.randn(1, 16, 8)
    for kwargs in (dict(key_padding_mask=torch.zeros(1, 16)), dict(attn_mask=torch.zeros(16, 16))):
        with pytest.raises(ValueError, match=f'{next(iter(kwargs))}.* a tensor that ParC cannot use'):
            attention(x, x, x, **kwargs)
    with pytest.raises(ValueError, match="passes 'key' to self-attention, a tensor"):
        attention(x, torch.randn(1, 9, 8), torch.randn(1, 9, 8))
    swin = mm('SwinTransformer', arch=dict(embed_dims=8, depths=[2, 1, 1, 1], num_heads=[2] * 4), window_size=4, img_size=128,
              pad_small_map=True)
    with pytest.raises(ValueError, match=r"stages.0.blocks.1.attn.w_msa .*'mask'.* select the module around it"):
        replace_with_parc(swin, 'w_msa$', 64)


# Bad input


@pytest.mark.parametrize('make, select, message', [
    (TimmLike, 'nothing', "'nothing' matches no depthwise .* a module without any layer to replace; layers .*blocks.0.conv_dw"),
    (lambda: nn.Sequential(nn.Linear(2, 2)), '', 'Sequential, a module without any layer to replace; it has none'),
    (TimmLike, lambda name, layer: False, 'a module without any layer to replace'),
    (TimmLike, [], 'a module without any layer to replace'),
    (TimmLike, ['blocks.0.conv_dw', 'blocks.7'], 'names blocks.7, which TimmLike does not have'),
    (TimmLike, '(', 'no regular expression'),
    (TimmLike, ['norm'], r'norm \(BatchNorm2d\) is neither'),
    (TimmLike, ['blocks.0.conv_pw'], r'blocks.0.conv_pw \(Conv2d 1x1\) is not depthwise: groups=1'),
    (lambda: TimmLike(channels=5), 'conv_dw', 'has 5 channels; ParC needs an even number'),
    (lambda: TimmLike(stride=2), 'conv_dw', 'has stride 2'),
    (lambda: TimmLike(kernel_size=4), 'conv_dw', 'odd kernel'),
    (lambda: TimmLike(padding=1), 'conv_dw', r'padding=\(1, 1\), and \(2, 2\) would keep it'),
    (lambda: TimmLike(), 'stem|conv_dw', 'stem .* is not depthwise'),
])
def test_layers_that_cannot_be_replaced_are_named(make, select, message):
    host = make()
    before = list(host.modules())
    with pytest.raises(ValueError, match=message):
        replace_with_parc(host, select, 64)
    assert [id(m) for m in host.modules()] == [id(m) for m in before]


@pytest.mark.parametrize('arguments, message', [
    (dict(init='zeros'), "init='zeros' is unknown; choose from random, from_kernel"),
    (dict(backend='magic'), 'magic'),
    (dict(resolution=0), 'resolution=0 is not allowed'),
    (dict(resolution=(8, 8, 8)), r'resolution=\(8, 8, 8\) is not allowed'),
    (dict(resolution={'blocks.0.conv_dw': 4}), 'no base size for blocks.1.conv_dw'),
    (dict(resolution=lambda name: 0), 'the base size of blocks.0.conv_dw=0'),
    (dict(resolution=2), r'a zero image \(1, 1, 2, 2\) does not go through TimmLike .* give base sizes by name'),
])
def test_bad_arguments_leave_the_model_alone(arguments, message):
    host = TimmLike()
    before = list(host.modules())
    with pytest.raises(ValueError, match=message):
        replace_with_parc(host, **{**dict(select='conv_dw', resolution=64), **arguments})
    assert [id(m) for m in host.modules()] == [id(m) for m in before]


def test_layer_that_the_forward_pass_leaves_out_is_named():
    host = TimmLike()
    host.spare = nn.Conv2d(4, 4, 3, padding=1, groups=4)
    with pytest.raises(ValueError, match='spare does not run in the forward pass of TimmLike; give base sizes by name'):
        replace_with_parc(host, 'conv_dw|spare', 64)


def test_running_statistics_stay_as_they_were():
    host = TimmLike().train()
    mean = host.norm.running_mean.clone()
    replace_with_parc(host, 'conv_dw', 64)
    assert torch.equal(host.norm.running_mean, mean) and host.norm.num_batches_tracked == 0 and host.norm.training
