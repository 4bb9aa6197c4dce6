"""GLiT: parameters of the published sizes, both modes and what ties them, any image, and what every backbone promises."""
import copy
import logging

import pytest
import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from hybrid_mm.backbones import GLiT

TINY = dict(
    embed_dims=12, num_heads=3,
    blocks=((3, 0, None, None, 0.5, 2), (0, 3, 31, 2, None, 2), (1, 2, 15, 1, 1, 1), (2, 1, 9, 2, 2, 2)))
DEEP = dict(TINY, blocks=TINY['blocks'] * 2)


def build(arch=TINY, mode='dense', global_blocks=(3, ), **kwargs):
    torch.manual_seed(0)
    return randomise(GLiT(copy.deepcopy(arch), mode, global_blocks=global_blocks, **kwargs))


def randomise(module):
    """Weights of some size, norms and running statistics unlike their start: every part counts in the outputs."""
    torch.manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if name.endswith('running_var') else 0.3 * torch.randn_like(value))
            if value.ndim == 1 and name.endswith('weight'):
                value.add_(1)
    return module


def count(module):
    return sum(p.numel() for p in module.parameters())


def mixers(model):
    return [block.mixer for blocks in model.stages for block in blocks]


# ---- sizes ----


@pytest.mark.parametrize('arch, expected', [('tiny', 7_264_456), ('small', 24_587_020), ('base', 96_174_640)])
def test_parameters_of_the_classifiers(arch, expected):
    with torch.device('meta'):
        model = GLiT(arch, 'image')
    assert count(model) + 1000 * model.out_channels[-1] + 1000 == expected


def test_parameters_of_each_block_of_tiny():
    with torch.device('meta'):
        blocks = [count(block) for stage in GLiT('tiny').stages for block in stage]
    assert blocks == [
        370_848, 531_840, 676_288, 444_864, 777_600, 676_288, 297_024, 380_608, 777_600, 444_864, 766_848, 740_736]


def test_modes_differ_in_class_token_and_norms_alone():
    with torch.device('meta'):
        image, dense = (GLiT('tiny', mode).state_dict() for mode in ('image', 'dense'))
    assert image.keys() - dense.keys() == {'stem.cls_token'}
    assert dense.keys() - image.keys() == {f'out_norms.{i}.{part}' for i in range(3) for part in ('weight', 'bias')}
    assert {key for key in image if key in dense and image[key].shape != dense[key].shape} == {'stem.pos_embed'}
    assert (image['stem.pos_embed'].shape, dense['stem.pos_embed'].shape) == ((1, 197, 192), (1, 196, 192))


@pytest.mark.parametrize('size', [(16, 16), (33, 47), (250, 180), (224, 224)], ids=str)
def test_maps_have_stride_16_and_are_contiguous(size):
    model = build().eval()
    with torch.no_grad():
        maps = model(torch.randn(2, 3, *size))
    assert model.out_channels == (12, ) * 4
    assert [tuple(x.shape) for x in maps] == [(2, 12, -(-size[0] // 16), -(-size[1] // 16))] * 4
    assert all(x.is_contiguous() and x.isfinite().all() for x in maps)


def test_image_below_the_stride_is_refused():
    with pytest.raises(ValueError, match='15x64 pixels, less than the stride of 16'):
        build()(torch.zeros(1, 3, 15, 64))


def test_stages_share_the_blocks_of_any_table():
    model = build(DEEP, out_indices=(0, 2), global_blocks=())
    assert [len(stage) for stage in model.stages] == [2] * 4
    rows = [(m.attn is not None, m.conv is not None) for m in mixers(model)]
    assert rows == [(row[0] > 0, row[1] > 0) for row in DEEP['blocks']]
    maps = model.eval()(torch.randn(1, 3, 32, 32))
    assert len(maps) == len(model.out_channels) == 2
    full = build(DEEP, global_blocks=()).eval()
    full.load_state_dict(model.state_dict(), strict=False)
    assert torch.equal(full(torch.ones(1, 3, 32, 32))[0], model(torch.ones(1, 3, 32, 32))[0])


# ---- both modes ----


def test_dense_mode_is_the_image_mode_without_class_token_at_224():
    """Stem, all blocks and the last norm are equal, for a map that is one window, in training mode of BatchNorm too.

    The class token is the only difference: image mode's own blocks, run without it, give the dense maps, and with it do not.
    It is one more key of attention, it stands left of the first patches where dense mode has zeros, and it counts in the
    statistics of BatchNorm.
    """
    image, dense = build(mode='image').double(), build(global_blocks=()).double()
    state_dict = {key: value for key, value in image.state_dict().items() if key != 'stem.cls_token'}
    state_dict['stem.pos_embed'] = state_dict['stem.pos_embed'][:, 1:]
    assert dense.load_state_dict(state_dict, strict=False).unexpected_keys == []
    x = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    for training in (False, True):
        image.train(training), dense.train(training)
        maps = []
        hooks = [stage[-1].register_forward_hook(lambda module, args, out: maps.append(out)) for stage in dense.stages]
        with torch.no_grad():
            out = dense(x)[-1]
            tokens = image.stem(x)
            patches = tokens[:, 1:]  # not the class token
            torch.testing.assert_close(dense.stem(x).flatten(2).transpose(1, 2), patches, rtol=0, atol=0)
            for stage, map_ in zip(image.stages, maps):
                for block in stage:
                    tokens, patches = block(tokens), block(patches)
                torch.testing.assert_close(map_.flatten(2).transpose(1, 2), patches, rtol=1e-9, atol=1e-9)
                assert ((tokens[:, 1:] - patches).abs().amax(2) > 1e-6).all()
            torch.testing.assert_close(out.flatten(2).transpose(1, 2), image.out_norms[3](patches), rtol=1e-9, atol=1e-9)
        for hook in hooks:
            hook.remove()


def test_image_mode_gives_the_normed_class_token():
    model = build(mode='image').eval()
    seen = {}
    model.stages[3][-1].register_forward_hook(lambda module, args, out: seen.update(tokens=out))
    out, = model(torch.randn(2, 3, 224, 224))
    assert seen['tokens'].shape == (2, 197, 12)
    norm = model.out_norms[3]
    torch.testing.assert_close(out, F.layer_norm(seen['tokens'][:, 0], (12, ), norm.weight, norm.bias, 1e-6))
    assert out.is_contiguous()


def test_linear_head_of_mmpretrain_takes_the_class_token():
    import mmpretrain.models  # noqa: F401
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(
            dict(
                type='mmpretrain.ImageClassifier',
                backbone=dict(type='hybrid_mm.GLiT', arch=TINY, mode='image', global_blocks=()),
                head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=12)))
    assert classifier.eval()(torch.randn(2, 3, 224, 224)).shape == (2, 5)


@pytest.mark.parametrize('mode', ['image', 'dense'])
@pytest.mark.parametrize('size', [(224, 224), (96, 160), (448, 224)], ids=str)
def test_position_embedding_is_resized_to_the_grid(mode, size):
    stem = build(mode=mode).stem
    x = torch.randn(1, 3, *size)
    embed = stem.pos_embed[:, -196:].transpose(1, 2).reshape(1, 12, 14, 14)
    if size != (224, 224):
        embed = F.interpolate(embed, (size[0] // 16, size[1] // 16), mode='bicubic', align_corners=False)
    expected = F.conv2d(x, stem.proj.weight, stem.proj.bias, stride=16) + embed
    out = stem(x)
    if mode == 'image':
        torch.testing.assert_close(out[:, 0], stem.cls_token[:, 0] + stem.pos_embed[:, 0])
        out = out[:, 1:].transpose(1, 2).reshape(expected.shape)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize('mode', ['image', 'dense'])
def test_image_is_padded_with_zeros_at_the_right_and_bottom(mode):
    model = build(mode=mode).eval()
    x = torch.randn(1, 3, 41, 56)
    for out, padded in zip(model(x), model(F.pad(x, (0, 8, 0, 7)))):
        assert torch.equal(out, padded)


def test_image_mode_reads_the_raw_sequence_at_every_size():
    model = build(mode='image').eval()
    assert model(torch.randn(2, 3, 250, 180))[0].shape == (2, 12)
    changed = build(mode='image', window_size=3, global_blocks='all').eval()
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(changed(x)[0], model(x)[0])


# ---- windows ----


@pytest.mark.parametrize('global_blocks, expected', [((3, 6, 9, 11), {3, 6, 9, 11}), ((), set()), ([0], {0}),
                                                     ('all', set(range(12)))], ids=str)
def test_listed_blocks_attend_globally(global_blocks, expected):
    with torch.device('meta'):
        model = GLiT('tiny', window_size=7, global_blocks=global_blocks)
    for number, mixer in enumerate(mixers(model)):
        if mixer.attn is not None:
            assert mixer.attn.window_size == (None if number in expected else 7)
        if mixer.conv is not None:
            assert mixer.conv.window_size == 7
    if expected == {3, 6, 9, 11}:
        with torch.device('meta'):
            assert GLiT('tiny').global_blocks == model.global_blocks  # the default


@pytest.mark.parametrize('number, expected', [(12, (3, 6, 9, 11)), (8, (1, 3, 5, 7)), (4, (0, 1, 2, 3)), (16, (3, 7, 11, 15))])
def test_default_of_another_number_of_blocks_is_the_last_of_each_stage(number, expected):
    for arch in (dict(TINY, blocks=TINY['blocks'] * (number // 4)), ) + (('tiny', ) if number == 12 else ()):
        with torch.device('meta'):
            model, image = GLiT(arch), GLiT(arch, 'image')
        assert model.global_blocks == expected
        reach = [mixer.attn is not None and mixer.attn.window_size is None for mixer in mixers(model)]
        assert [i for i, is_global in enumerate(reach) if is_global] == [
            i for i in expected if mixers(model)[i].attn is not None]
        assert len(mixers(image)) == number


def test_image_mode_does_not_read_global_blocks():
    x = torch.randn(1, 3, 48, 64)
    outputs = [build(DEEP, 'image', blocks).eval()(x)[0] for blocks in ((3, ), (99, ), None)]
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_blocks_see_their_window_and_global_ones_the_map():
    for global_blocks, reach in ((), 2), ((3, ), 5):
        model = build(global_blocks=global_blocks, window_size=2).eval()
        x = torch.randn(1, 3, 80, 80, requires_grad=True)
        model(x)[-1][0, :, 1, 1].sum().backward()
        seen = F.avg_pool2d(x.grad.abs().sum(1), 16)[0] > 0
        expected = torch.zeros(5, 5, dtype=torch.bool)
        expected[:reach, :reach] = True
        assert torch.equal(seen, expected)


def test_map_of_one_window_is_the_same_for_all_and_no_global_blocks():
    x = torch.randn(1, 3, 150, 224, dtype=torch.float64)
    windowed, whole = (build(global_blocks=blocks).double().eval()(x) for blocks in ((), 'all'))
    for a, b in zip(windowed, whole):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# ---- what every backbone promises ----


def test_weights_start_as_the_release_starts_them():
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    torch.manual_seed(0)
    model = GLiT('tiny', 'image')
    conv = {name: value.clone() for name, value in model.state_dict().items() if '.conv.' in name or 'stem.proj' in name}
    model.init_weights()
    logger.setLevel(level)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in conv.items())
    assert conv['stages.0.1.mixer.conv.expand.weight'].std() > 0.03  # uniform within 1 / sqrt(192)
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert (module.bias == 0).all()
    for parameter in (model.stem.cls_token, model.stem.pos_embed):
        assert parameter.std().item() == pytest.approx(0.02, rel=0.15)


def test_frozen_statistics_stay_in_training():
    model = build(norm_eval=True).train()
    before = [buffer.clone() for buffer in model.buffers()]
    model(torch.randn(2, 3, 32, 32))
    assert before and all(torch.equal(a, b) for a, b in zip(before, model.buffers()))
    assert model.stages[1][0].mixer.training


def test_norm_of_the_convolutions_is_a_choice():
    model = GLiT(TINY, global_blocks=(), norm_cfg=dict(type='SyncBN'))
    assert isinstance(model.stages[1][0].mixer.conv.norm, nn.SyncBatchNorm)
    assert all(isinstance(norm, nn.LayerNorm) for norm in model.out_norms)


def test_stochastic_depth_rises_with_the_blocks():
    model = build(DEEP, drop_path_rate=0.7, global_blocks=())
    rates = [getattr(block.drop_path, 'drop_prob', 0.) for stage in model.stages for block in stage]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


def test_layer_depth_rises_from_stem_to_head():
    model = build(DEEP, global_blocks=())
    depths = {}
    for name, _ in model.named_parameters():
        depth, number = model.get_layer_depth('backbone.' + name, 'backbone.')
        assert number == 10
        depths.setdefault('.'.join(name.split('.')[:3 if name.startswith('stages') else 1]), set()).add(depth)
    assert depths.pop('stem') == {0}
    assert depths.pop('out_norms') == {2, 4, 6, 8}
    assert depths == {f'stages.{i // 2}.{i % 2}': {i + 1} for i in range(8)}
    assert model.get_layer_depth('neck.up2.weight', 'backbone.') == (9, 10)


@pytest.mark.parametrize('kwargs', [dict(mode='image'), dict(), dict(out_indices=(0, 2))], ids=str)
def test_every_parameter_that_is_trained_gets_a_gradient(kwargs):
    model = build(**kwargs)
    sum(out.mul(torch.randn_like(out)).sum() for out in model(torch.randn(2, 3, 64, 64))).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert missing == []
    behind = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert bool(behind) == ('out_indices' in kwargs) and all(name.startswith('stages.3') for name in behind)


@pytest.mark.parametrize('mode', ['image', 'dense'])
def test_an_image_does_not_depend_on_those_beside_it(mode):
    model = build(mode=mode).double().eval()
    x = torch.randn(3, 3, 48, 80, dtype=torch.float64)
    with torch.no_grad():
        for whole, alone in zip(model(x), model(x[1:2])):
            torch.testing.assert_close(whole[1:2], alone, rtol=1e-10, atol=1e-12)


# ---- bad input ----


def table(row, number=1):
    return dict(TINY, blocks=(*TINY['blocks'][:number], row, *TINY['blocks'][number + 1:]))


@pytest.mark.parametrize('arguments, message', [
    (dict(arch='large'), "arch='large' is unknown; choose from tiny, small, base or pass a dict with blocks, embed_dims"),
    (dict(arch=dict(blocks=())), 'arch has the keys blocks; it needs exactly blocks, embed_dims, num_heads'),
    (dict(mode='tokens'), "mode='tokens' is unknown; choose from 'dense', 'image'"),
    (dict(arch=dict(TINY, blocks=TINY['blocks'][:3])), 'blocks has 3 rows; give one a block, 4 or a multiple of it'),
    (dict(arch=dict(TINY, blocks=())), 'blocks has 0 rows'),
    (dict(arch=table((3, 0, 31, 4, 1))), r'block 1 is \(3, 0, 31, 4, 1\); give 6 values, \(G, L, K, E, d_k, d_z\)'),
    (dict(arch=table((2, 2, 31, 4, 1, 4))), 'block 1 has G=2 and L=2; choose two numbers, 0 to 3, with the sum 3'),
    (dict(arch=table((4, -1, 31, 4, 1, 4))), 'block 1 has G=4 and L=-1'),
    (dict(arch=table((0, 3, 30, 4, 1, 4))), r'block 1, .* = \(0, 3, 30, 4, 1, 4\): kernel_size=30 is not allowed'),
    (dict(arch=table((0, 3, 31, 0.3, 1, 4), 2)), 'block 2, .*: expansion=0.3 is not allowed'),
    (dict(arch=table((3, 0, 31, 4, None, 4))), 'block 1, .*: qk_ratio=None is not allowed'),
    (dict(arch=table((3, 0, 31, 4, 1, 0))), 'block 1, .*: mlp_ratio=0 is not allowed'),
    (dict(arch=dict(TINY, embed_dims=16, num_heads=4)), 'embed_dims=16 is not allowed; choose a multiple of 3 and of num_'),
    (dict(arch=dict(TINY, num_heads=5)), 'embed_dims=12 is not allowed; choose a multiple of 3 and of num_heads=5'),
    (dict(arch=dict(TINY, num_heads=4, blocks=TINY['blocks'][1:] * 4)), 'block 1, .*: num_heads=4 is not allowed'),
    (dict(global_blocks=(3, 4)), r"global_blocks=\(3, 4\) is not allowed; choose from 0 to 3, or 'all'"),
    (dict(global_blocks='none'), "global_blocks='none' is not allowed"),
    (dict(global_blocks=(True, )), r'global_blocks=\(True,\) is not allowed'),
    (dict(global_blocks=(1., )), r'global_blocks=\(1.0,\) is not allowed'),
    (dict(global_blocks=(-1, )), r'global_blocks=\(-1,\) is not allowed'),
    (dict(window_size=0), 'window_size=0 is not allowed'),
    (dict(out_indices=(4, )), r'out_indices=\(4,\) is not allowed'),
    (dict(frozen_stages=5), 'frozen_stages=5 is not allowed'),
], ids=str)
def test_bad_argument_is_one_error_that_names_it(arguments, message):
    with pytest.raises(ValueError, match=message), torch.device('meta'):
        GLiT(**{'arch': TINY, 'global_blocks': (), **arguments})
