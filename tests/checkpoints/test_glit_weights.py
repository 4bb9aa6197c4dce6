"""Weights of GLiT: into both modes, from shapes to the architecture, and which of several sets in a file count."""
import re

import pytest
import torch
from mmengine.logging import MMLogger
from reference.released_weights import empty_weights, weights

from hybrid_mm.backbones import GLiT
from hybrid_mm.checkpoints import Released, convert, glit_arch, identify, unwrap
from hybrid_mm.checkpoints.identification import recognise

TINY = GLiT.arch_settings['tiny']
SMALL_ARCH = dict(
    embed_dims=12, num_heads=3,
    blocks=((3, 0, None, None, 0.5, 2), (0, 3, 31, 2, None, 2), (1, 2, 15, 1, 1, 1), (2, 1, 9, 4, 2, 2.5)))


@pytest.fixture(scope='module')
def released():
    """Weights of released GLiT-Tiny."""
    return weights('glit_tiny')


@pytest.fixture
def save(tmp_path):

    def _save(checkpoint):
        torch.save(checkpoint, tmp_path / 'glit_tiny.pth.tar')
        return str(tmp_path / 'glit_tiny.pth.tar')

    return _save


@pytest.fixture
def log(tmp_path, request):
    """What mmengine has logged so far."""
    MMLogger.get_instance(request.node.name, log_file=str(tmp_path / 'log'))
    return (tmp_path / 'log').read_text


def assert_loaded(backbone, converted):
    state_dict = backbone.state_dict()
    for key, value in converted.items():
        torch.testing.assert_close(state_dict[key], value, rtol=0, atol=0, msg=key)


def without_class_token(converted):
    converted = {key: value for key, value in converted.items() if key != 'stem.cls_token'}
    return {**converted, 'stem.pos_embed': converted['stem.pos_embed'][:, 1:]}


def test_every_tensor_of_the_release_has_its_place(released):
    assert len(released) == 213
    assert len(convert(released, 'GLiT')) == 211
    assert len(convert(released, 'GLiT', head=True)) == 213


def test_image_mode_takes_all_of_the_release(released, save, log):
    path = save({'model': released})
    backbone = GLiT('tiny', 'image', init_cfg=dict(type='hybrid_mm.Released', checkpoint=path))
    backbone.init_weights()
    assert_loaded(backbone, convert(released, 'GLiT'))
    assert f'loaded 211 of 211 tensors from {path}\n' in log()


@pytest.mark.parametrize('names', ['of the release', 'ours'])
def test_dense_mode_drops_the_class_token_and_says_so(names, released, save, log):
    converted = convert(released, 'GLiT')
    path = save({'model': released} if names == 'of the release' else
                {'state_dict': {f'backbone.{key}': value for key, value in converted.items()}})
    backbone = GLiT('tiny')
    start = {key: value.clone() for key, value in backbone.state_dict().items()}
    Released(path)(backbone)
    expected = without_class_token(converted)
    assert_loaded(backbone, expected)
    assert start.keys() - expected.keys() == {f'out_norms.{i}.{part}' for i in range(3) for part in ('weight', 'bias')}
    assert_loaded(backbone, {key: value for key, value in start.items() if key not in expected})
    assert f'loaded 210 of 210 tensors from {path}, without the class token and its position, which the dense' in log()


@pytest.mark.parametrize('options', [dict(out_indices=(0, 1, 2)), dict(out_norm=False)], ids=str)
def test_last_norm_goes_with_its_output_and_the_log_says_so(options, released, save, log):
    backbone = GLiT('tiny', **options)
    Released(save(released))(backbone)
    expected = {key: value for key, value in without_class_token(convert(released, 'GLiT')).items()
                if not key.startswith('out_norms.')}
    assert_loaded(backbone, expected)
    assert 'loaded 208 of 208 tensors' in log() and 'and without the last norm' in log()


def test_dense_checkpoint_loads_into_the_dense_mode_alone(save, log):
    trained, backbone = GLiT('tiny'), GLiT('tiny')
    torch.nn.init.constant_(trained.out_norms[1].weight, 3.)
    path = save({'state_dict': {f'backbone.{key}': value for key, value in trained.state_dict().items()}})
    Released(path)(backbone)
    assert_loaded(backbone, trained.state_dict())
    assert f'loaded 216 of 216 tensors from {path}\n' in log()
    with pytest.raises(ValueError, match='does not fit the backbone: the file lacks stem.cls_token'):
        Released(path)(GLiT('tiny', 'image'))


def test_converted_release_gives_dense_maps_of_its_tokens(released, save):
    """At 224 x 224 pixels the dense maps are the release's blocks on its patches alone."""
    dense, image = GLiT('tiny').double().eval(), GLiT('tiny', 'image').double().eval()
    path = save(released)
    Released(path)(dense)
    Released(path)(image)
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = image.stem(x)[:, 1:]
        for stage in image.stages:
            for block in stage:
                tokens = block(tokens)
        expected = image.out_norms[3](tokens).transpose(1, 2).reshape(1, 192, 14, 14)
        torch.testing.assert_close(dense(x)[3], expected, rtol=1e-9, atol=1e-9)


# ---- the architecture in the shapes ----


@pytest.mark.parametrize('arch, mode', [('tiny', 'image'), ('tiny', 'dense'), ('small', 'dense'), ('base', 'image')])
def test_shapes_tell_the_architecture(arch, mode):
    with torch.device('meta'):
        state_dict = GLiT(arch, mode).state_dict()
    assert glit_arch(state_dict) == GLiT.arch_settings[arch]
    assert str(recognise(state_dict)) == f'GLiT {arch}'


def test_released_shapes_tell_the_architecture():
    assert glit_arch(empty_weights('glit_tiny')) == TINY
    assert glit_arch(convert(empty_weights('glit_tiny'), 'GLiT')) == TINY


def test_architecture_of_any_table_comes_back():
    with torch.device('meta'):
        model = GLiT(SMALL_ARCH, global_blocks=())
        arch = glit_arch(model.state_dict(), num_heads=3)
        assert arch == SMALL_ARCH
        GLiT(arch, global_blocks=()).load_state_dict(model.state_dict(), strict=True)
    with pytest.raises(ValueError, match='num_heads cannot be told from shapes, and embed_dims=12 is of no known arch'):
        glit_arch(model.state_dict())


@pytest.mark.parametrize('key', ['patch_embed.proj.weight', 'blocks.4.0.mlp.fc1.weight', 'blocks.4.0.attn.net.3.conv.weight'])
def test_incomplete_state_dict_has_no_architecture(key):
    released = empty_weights('glit_tiny')
    del released[key]
    ours, = convert({key: torch.zeros(1)}, 'GLiT')
    with pytest.raises(ValueError, match=f'this is no GLiT; it lacks {ours}$'):
        glit_arch(released)


def test_something_else_has_no_architecture():
    with pytest.raises(ValueError, match='this is no GLiT; it lacks stem.proj.weight'):
        glit_arch({'stem.0.weight': torch.zeros(1)})
    state_dict = empty_weights('glit_tiny')
    del state_dict['blocks.5.0.attn.qkv.weight']
    with pytest.raises(ValueError, match='stages.1.2 has 0 channels with attention and 128 with convolution'):
        glit_arch(state_dict)


def arch_with(number, row):
    return dict(TINY, blocks=(*TINY['blocks'][:number], row, *TINY['blocks'][number + 1:]))


@pytest.mark.parametrize('mode', ['image', 'dense'])
@pytest.mark.parametrize('arch, message', [
    ('small',
     'the file holds GLiT tiny, the model is GLiT small; the file has another arch: embed_dims is 192 instead of 360; '),
    (arch_with(4, (0, 3, 17, 4, None, 4)),
     'the file holds GLiT tiny, the model is of no released arch; the file has another arch: '
     'block 4 has (G, L, K, E, d_k, d_z) = (0, 3, 45, 4, None, 4) instead of (0, 3, 17, 4, None, 4); the file has the shapes'),
    (arch_with(0, (1, 2, 31, 4, 1, 4)), 'block 0 has (G, L, K, E, d_k, d_z) = (3, 0, None, None, 0.5, 4) instead of (1, 2, 31'),
    (dict(TINY, blocks=TINY['blocks'][:8]), 'there are 12 blocks instead of 8'),
], ids=['small', 'kernel', 'groups', 'depth'])
def test_file_of_another_arch_is_refused_and_the_difference_named(arch, message, mode, released, save):
    backbone = GLiT(arch, mode, global_blocks=())
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    path = save({'model': released})
    with pytest.raises(ValueError, match=f'^{path} does not fit the backbone: .*{re.escape(message)}'):
        Released(path)(backbone)
    assert_loaded(backbone, before)


def test_file_of_an_unknown_table_is_refused_and_the_difference_named(save):
    file = GLiT(arch_with(4, (0, 3, 17, 4, None, 4)), 'image').state_dict()
    with pytest.raises(ValueError, match=r'block 4 has .* = \(0, 3, 17, 4, None, 4\) instead of \(0, 3, 45, 4, None, 4\)'):
        Released(save(file))(GLiT('tiny', 'image'))


def test_identification_names_what_is_wrong():
    released = empty_weights('glit_tiny')
    assert identify(released) == ('GLiT', 'tiny')
    released['blocks.4.0.attn.net.3.conv.weight'] = torch.empty(768, 1, 17, device='meta')
    with pytest.raises(ValueError, match=r'the tensors fit no arch of GLiT \(tiny, small, base\); compared with tiny'):
        identify(released)


# ---- several sets of weights in one file ----


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_last_weights_count_and_not_the_averaged_ones(prefix):
    """The authors report the accuracy of the weights under `model`, though their files have an average too."""
    last, averaged = ({f'{prefix}{key}': torch.full((1, ), value) for key in empty_weights('glit_tiny')} for value in (1., 2.))
    state_dict = unwrap({'model_ema': averaged, 'optimizer': {}, 'model': last})
    assert len(state_dict) == 213 and all(value == 1 for value in state_dict.values())
    assert all(value == 2 for value in unwrap({'model_ema': averaged}).values())


def test_averaged_weights_of_other_families_still_count():
    last, averaged = ({key: torch.full((1, ), value) for key in empty_weights('hatnet_tiny')} for value in (1., 2.))
    assert all(value == 2 for value in unwrap({'model': last, 'model_ema': averaged}).values())
