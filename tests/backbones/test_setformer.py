"""SeTformer: parameters of the published sizes, maps of any image, the softmax switch, and training in half precision."""
import copy

import pytest
import torch
from torch import nn

from hybrid_mm.backbones import SeTformer
from hybrid_mm.backbones.setformer import SoftmaxAttention2d
from hybrid_mm.layers import SelfOptimalTransport2d

TINY = dict(channels=(16, 16, 32, 32), depths=(1, 2, 2, 1), mlp_ratio=2, head_dim=8)


def build(**kwargs):
    torch.manual_seed(0)
    model = SeTformer(**{**dict(arch=copy.deepcopy(TINY), num_references=9, eps=0.1), **kwargs})
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():  # weights of some size: every part counts in the outputs
        if parameter.ndim > 1 and 'gamma' not in name:
            nn.init.normal_(parameter, std=parameter[0].numel()**-0.5)
    return model


def mixers(model):
    return [block.attn for blocks in model.stages for block in blocks]


def count(model):
    return sum(p.numel() for p in model.parameters())


# ---- sizes ----


@pytest.mark.parametrize('arch, few, many', [
    ('mini', 16_620_904, 16_950_184), ('tiny', 23_093_608, 23_874_472), ('small', 28_379_464, 29_480_200),
    ('base', 49_875_048, 51_342_696)
])
def test_parameters_of_the_classifiers(arch, few, many):
    with torch.device('meta'):
        for num_references, expected in ((49, few), ((196, 196, 196, 49), many)):
            model = SeTformer(arch, num_references=num_references, out_indices=(3, ))
            assert count(model) + 1000 * model.out_channels[-1] + 1000 == expected


@pytest.mark.parametrize('arch, without', [
    ('mini', 16_385_704), ('tiny', 22_707_880), ('small', 27_937_288), ('base', 49_285_480)
])
def test_references_are_all_that_their_number_changes(arch, without):
    with torch.device('meta'):
        model = SeTformer(arch, num_references=49, out_indices=(3, ))
        references = sum(mixer.references.numel() for mixer in mixers(model))
        assert references == sum(49 * c * n for c, n in zip(model.settings['channels'], model.depths))
        assert count(model) - references + 1000 * model.out_channels[-1] + 1000 == without


@pytest.mark.parametrize('attention, squares', [('transport', 2), ('softmax', 4)])
@pytest.mark.parametrize('arch', SeTformer.arch_settings)
def test_a_block_costs_what_the_formula_says(arch, attention, squares):
    with torch.device('meta'):
        model = SeTformer(arch, attention, num_references=49, out_indices=(3, ))
    r = model.settings['mlp_ratio']
    for c, blocks in zip(model.settings['channels'], model.stages):
        biases = (7 + r if attention == 'transport' else 9 + r) * c  # of q and k too
        references = 49 * c if attention == 'transport' else 0
        assert count(blocks[0]) == (squares + 2 * r) * c**2 + biases + references
        if attention == 'transport':
            assert blocks[0].attn.references.shape == (c // 32, 49, 32)
    c = model.settings['channels'][0]
    assert 2 * count(model.stem) == 27 * c + c + 9 * c**2 + 2 * c + 4 * c
    assert [count(down) for down in model.downsamples[1:]] == [18 * c**2 + 4 * c for c in model.settings['channels'][:3]]


@pytest.mark.parametrize('attention', ['transport', 'softmax'])
@pytest.mark.parametrize('size', [(32, 32), (33, 47), (64, 96), (101, 38)], ids=str)
def test_maps_have_ceil_sizes_and_are_contiguous(size, attention):
    model = build(attention=attention).eval()
    with torch.no_grad():
        maps = model(torch.randn(2, 3, *size))

    assert model.out_channels == (16, 16, 32, 32)
    assert [tuple(x.shape) for x in maps] == [
        (2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(model.out_channels, (4, 8, 16, 32))]
    assert all(x.is_contiguous() and x.isfinite().all() for x in maps)


def test_widths_of_the_published_archs():
    with torch.device('meta'):
        channels = [SeTformer(arch).out_channels for arch in SeTformer.arch_settings]
        assert channels == [(64, 128, 256, 512)] * 2 + [(96, 192, 384, 768), (128, 256, 512, 1024)]
        assert SeTformer('small', out_indices=(0, -1)).out_channels == (96, 768)


def test_image_below_the_stride_is_refused():
    with pytest.raises(ValueError, match='31x64 pixels, less than the stride of 32'):
        build()(torch.zeros(1, 3, 31, 64))


@pytest.mark.parametrize('prior', ['2d', '1d', None])
def test_nothing_depends_on_the_image_size(prior):
    model = build(prior=prior).eval()
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    other = build(prior=prior).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        for size in ((32, 32), (64, 96), (75, 41)):
            x = torch.randn(1, 3, *size)
            maps = model(x)
            assert {name: value.shape for name, value in model.state_dict().items()} == shapes
            other.load_state_dict(model.state_dict())
            assert all(torch.equal(a, b) for a, b in zip(other(x), maps))


# ---- the token mixer ----


@pytest.mark.parametrize('arch', [TINY, 'mini'], ids=['tiny', 'mini'])
def test_softmax_is_one_argument_away(arch):
    with torch.device('meta'):
        transport, softmax = SeTformer(arch), SeTformer(arch, attention='softmax')

    assert all(isinstance(mixer, SelfOptimalTransport2d) for mixer in mixers(transport))
    assert all(isinstance(mixer, SoftmaxAttention2d) for mixer in mixers(softmax))
    assert not any('references' in name for name in softmax.state_dict())
    rest = [{name: value.shape for name, value in model.state_dict().items() if '.attn.' not in name}
            for model in (transport, softmax)]
    assert rest[0] == rest[1] and rest[0]


def test_softmax_attention_is_that_of_torch():
    torch.manual_seed(0)
    ours = SoftmaxAttention2d(16, 8).double()
    theirs = nn.MultiheadAttention(16, 2, batch_first=True).double()
    theirs.in_proj_weight.data.copy_(ours.qkv.weight[:, :, 0, 0])
    theirs.in_proj_bias.data.copy_(ours.qkv.bias)
    theirs.out_proj.weight.data.copy_(ours.proj.weight[:, :, 0, 0])
    theirs.out_proj.bias.data.copy_(ours.proj.bias)
    x = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    tokens = x.flatten(2).transpose(1, 2)
    expected = theirs(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, (5, 7))
    torch.testing.assert_close(ours(x), expected, rtol=1e-10, atol=1e-12)


def test_block_adds_attention_and_mlp_of_normed_maps():
    block = build().double().stages[2][1]
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64)

    def norm(layer, x):
        return nn.functional.layer_norm(x.permute(0, 2, 3, 1), (32, ), layer.weight, layer.bias, 1e-6).permute(0, 3, 1, 2)

    y = x + block.attn(norm(block.norm1, x))
    hidden = nn.functional.gelu(torch.einsum('bchw,kc->bkhw', norm(block.norm2, y), block.mlp[0].weight)
                                + block.mlp[0].bias[:, None, None])
    expected = y + torch.einsum('bkhw,ck->bchw', hidden, block.mlp[2].weight) + block.mlp[2].bias[:, None, None]
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


def test_settings_of_the_transport_reach_every_block():
    settings = dict(similarity='dot', sigma=0.7, eps=0.3, iterations=7, prior='1d', tau=0.2, references='frozen', nystrom=True)
    with torch.device('meta'):
        plain = SeTformer(TINY, similarity='gaussian', prior='2d')
        model = SeTformer(TINY, num_references=(25, 16, 9, 4), **settings)

    assert [mixer.num_references for mixer in mixers(model)] == [25, 16, 16, 9, 9, 4]
    for mixer in mixers(model):
        assert mixer.similarity == ('dot', 0.7, 0.3)
        assert (mixer.iterations, mixer.prior, mixer.tau) == (7, '1d', 0.2)
        assert mixer.centres is not None and not mixer.references.requires_grad
    for mixer in mixers(plain):
        assert mixer.similarity.kind == 'gaussian' and mixer.prior == '2d'
        assert mixer.centres is None and mixer.references.requires_grad
        assert mixer.num_references == 49  # the default


def test_layer_scale_weighs_both_branches():
    assert not any('gamma' in name for name in build().state_dict())
    model = build(layer_scale_init_value=1e-9).double().eval()
    x = torch.randn(1, 32, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(model.stages[3][0](x), x, rtol=0, atol=1e-6)
    assert (build().double().stages[3][0](x) - x).abs().max() > 0.1


def test_factors_of_layer_scale_are_vectors_and_old_files_load():
    """As vectors, rules for one-dimensional parameters leave them without weight decay."""
    model = build(layer_scale_init_value=0.5)
    factors = {name: p for name, p in model.named_parameters() if 'gamma' in name}
    assert len(factors) == 2 * 6 and all(p.ndim == 1 for p in factors.values())
    for p in factors.values():
        nn.init.uniform_(p)
    old = {name: value[:, None, None] if 'gamma' in name else value for name, value in model.state_dict().items()}
    other = build(layer_scale_init_value=0.1)
    other.load_state_dict(old, strict=True)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    assert old['stages.0.0.gamma1'].ndim == 3  # what was given stays as it was
    block, x = model.stages[0][0].eval(), torch.randn(2, 16, 3, 5)
    with_factor = (x + block.gamma1[:, None, None] * block.attn(block.norm1(x)))
    out = block.mlp(block.norm2(with_factor).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(block(x), with_factor + block.gamma2[:, None, None] * out)


# ---- what every backbone promises ----


def test_layer_depth_rises_from_stem_to_head():
    model = build()
    depths = {}
    for name, _ in model.named_parameters():
        depth, number = model.get_layer_depth('backbone.' + name, 'backbone.')
        assert number == 8
        depths.setdefault('.'.join(name.split('.')[:3 if name.startswith('stages') else 2]), set()).add(depth)

    blocks = {f'stages.{i}.{j}' for i, depth in enumerate(TINY['depths']) for j in range(depth)}
    assert {part: depth.pop() for part, depth in depths.items() if part in blocks} == dict(zip(sorted(blocks), range(1, 7)))
    assert depths['stem.0'] == depths['stem.2'] == {0}
    assert [depths[f'downsamples.{i}'] for i in (1, 2, 3)] == [{2}, {4}, {6}]
    assert [depths[f'out_norms.{i}'] for i in range(4)] == [{1}, {3}, {5}, {6}]
    assert model.get_layer_depth('neck.conv.weight', 'backbone.') == (7, 8)


@pytest.mark.parametrize('attention', ['transport', 'softmax'])
def test_every_parameter_gets_a_gradient(attention):
    model = build(attention=attention)
    sum(m.square().mul(torch.randn_like(m)).mean() for m in model(torch.randn(2, 3, 64, 64))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    if attention == 'transport':
        assert all(mixer.references.grad.any() for mixer in mixers(model))


def test_an_image_does_not_depend_on_those_beside_it():
    model = build().double().eval()
    x = torch.randn(3, 3, 40, 56, dtype=torch.float64)
    with torch.no_grad():
        for whole, alone in zip(model(x), model(x[1:2])):
            torch.testing.assert_close(whole[1:2], alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('eps', [0.02, 1.])
def test_bf16_training_stays_finite(eps):
    """150 steps, at a learning rate that moves every weight."""
    arch = dict(channels=(16, ), depths=(1, ), mlp_ratio=1, head_dim=8)
    model = build(arch=arch, out_indices=(0, ), eps=eps, sigma=0.5).train()
    parameters = list(model.parameters())
    start = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, foreach=True)
    images = torch.randn(8, 2, 3, 32, 32)
    targets = torch.randn(8, 2, 16, 1, 1).expand(8, 2, 16, 8, 8)
    losses = []
    for step in range(150):
        with torch.autocast('cpu', torch.bfloat16):
            out, = model(images[step % 8])
        loss = (out.float() - targets[step % 8]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        gradients = torch.cat([p.grad.flatten() for p in parameters])
        assert loss.isfinite() and gradients.isfinite().all(), f'step {step}'
        optimizer.step()
        losses.append(loss.item())
    assert all(p.isfinite().all() for p in parameters)  # a weight that is not finite stays so
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    assert all(not torch.equal(p, q) for p, q in zip(parameters, start))


# ---- bad input ----


@pytest.mark.parametrize('arguments, message', [
    (dict(arch='large'), "arch='large' is unknown; choose from mini, tiny, small, base"),
    (dict(attention='linear'), "attention='linear' is unknown; choose from 'transport', 'softmax'"),
    (dict(num_references=0), 'num_references=0 is not allowed; choose a whole number, 1 or more'),
    (dict(num_references=(49, 49, 49)), r'num_references=\(49, 49, 49\) is not allowed; give one number, or 4, one a stage'),
    (dict(num_references=(49, 49, 49, 50)), "num_references=50 is not allowed with prior='2d'"),
    (dict(num_references=49.), 'num_references=49.0 is not allowed'),
    (dict(eps=0.), 'eps=0.0 is not allowed; choose a number above 0'),
    (dict(iterations=0), 'iterations=0 is not allowed'),
    (dict(similarity='cosine'), "similarity='cosine' is unknown"),
    (dict(arch=dict(TINY, head_dim=12)), 'head_dim=12 does not divide channels=16'),
    (dict(arch=dict(TINY, head_dim=12), attention='softmax'), 'head_dim=12 does not divide channels=16'),
    (dict(arch=dict(TINY, head_dim=32), attention='softmax'), 'head_dim=32 does not divide channels=16'),
    (dict(frozen_stages=5), 'frozen_stages=5 is not allowed'),
    (dict(out_indices=(4, )), r'out_indices=\(4,\) is not allowed'),
], ids=str)
def test_bad_argument_is_one_error_that_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        with torch.device('meta'):
            SeTformer(**{'arch': TINY, **arguments})
