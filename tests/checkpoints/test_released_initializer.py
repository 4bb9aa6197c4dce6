"""``init_cfg=dict(type='hybrid_mm.Released', ...)``: all of a release, or an error and nothing."""
import re

import pytest
import torch
import torchvision
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import BaseModule
from reference.released_weights import CLASSIFIERS, NETWORKS, dense_names, fill, weights
from torch import nn

from hybrid_mm.backbones import ParCConvNeXt, ParCMobileNetV2, ParCNet, SeTformer, TransCNN
from hybrid_mm.checkpoints import Released, convert
from hybrid_mm.checkpoints.fit import fitting
from hybrid_mm.registry import MODELS


@pytest.fixture(scope='module')
def released():
    """Weights of released TransCNN-Tiny, arch small here."""
    return weights('transcnn_tiny')


@pytest.fixture
def save(tmp_path):

    def _save(checkpoint):
        torch.save(checkpoint, tmp_path / 'released.pth')
        return str(tmp_path / 'released.pth')

    return _save


def assert_loaded(backbone, converted):
    state_dict = backbone.state_dict()
    for key, value in converted.items():
        torch.testing.assert_close(state_dict[key], value, rtol=0, atol=0, msg=key)


def test_backbone_starts_from_the_file_and_reports_it(released, save, tmp_path):
    MMLogger.get_instance('released', log_file=str(tmp_path / 'log'))
    path = save({'model': {f'module.{key}': value for key, value in released.items()}})
    backbone = MODELS.build(
        dict(type='hybrid_mm.TransCNN', arch='small', init_cfg=dict(type='hybrid_mm.Released', checkpoint=path)))
    backbone.init_weights()
    assert_loaded(backbone, convert(released, 'TransCNN'))
    assert f'loaded 433 of 433 tensors from {path}' in (tmp_path / 'log').read_text()


def test_initialiser_of_the_whole_model_does_not_overwrite_the_release(released, save):

    class Detector(BaseModule):

        def __init__(self, checkpoint):
            super().__init__(init_cfg=dict(type='Constant', layer=['Conv2d', 'BatchNorm2d'], val=7.))
            self.backbone = TransCNN('small', init_cfg=dict(type='hybrid_mm.Released', checkpoint=checkpoint))
            self.neck = nn.Conv2d(512, 8, 1)

    detector = Detector(save(released))
    detector.init_weights()
    assert (detector.neck.weight == 7).all()
    assert_loaded(detector.backbone, convert(released, 'TransCNN'))


def test_hatnet_loads_with_the_norm_that_it_never_uses(save):
    released = weights('hatnet_tiny')
    backbone = MODELS.get('HATNet')('tiny')
    Released(save(released))(backbone)
    assert_loaded(backbone, convert(released, 'HATNet'))


def test_output_norms_keep_their_start(released, save):
    backbone = TransCNN('small', out_norm=True)
    Released(save(released))(backbone)
    assert_loaded(backbone, convert(released, 'TransCNN'))
    for norm in backbone.out_norms:
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_subclass_takes_the_release_of_its_family(released, save):

    class FinerTransCNN(TransCNN):
        pass

    backbone = FinerTransCNN('small')
    Released(save(released))(backbone)
    assert_loaded(backbone, convert(released, 'TransCNN'))


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_converted_file_loads(prefix, released, save):
    converted = convert(released, 'TransCNN')
    file = {f'{prefix}{key}': value for key, value in converted.items()}
    file.update({'head.fc.weight': released['classifier.1.weight'], 'head.fc.bias': released['classifier.1.bias']})
    backbone = TransCNN('small')
    Released(save(dict(state_dict=file, meta=dict(family='TransCNN', arch='small'))))(backbone)
    assert_loaded(backbone, converted)


def test_training_checkpoint_loads_with_its_output_norms(save):
    trained = TransCNN('small', out_norm=True)
    nn.init.constant_(trained.out_norms[2].weight, 3.)
    state_dict = {f'backbone.{key}': value for key, value in trained.state_dict().items()}
    state_dict['roi_head.mask_head.conv_logits.weight'] = torch.zeros(1)
    hub = dict(log_scalars=dict(loss=HistoryBuffer([1.], [1])))
    backbone = TransCNN('small', out_norm=True)
    Released(save(dict(state_dict=state_dict, message_hub=hub)))(backbone)
    assert_loaded(backbone, trained.state_dict())


@pytest.mark.parametrize('name, options', [('parc_mobilenetv2', {}), ('parc_convnext_xt', dict(out_norm=False)),
                                           ('parcnet_xs', dict(out_indices=(0, 1, 2, 3, 4))), ('parcnet_xs', {})])
def test_every_form_of_a_parc_backbone_starts_from_its_release(name, options, save):
    released, network = weights(name), NETWORKS[name]
    backbone = MODELS.get(network['family'])(network['arch'], **options)
    Released(save(released))(backbone)
    converted = convert(released, network['family'])
    assert backbone.state_dict().keys() == converted.keys()
    assert_loaded(backbone, converted)


@pytest.fixture(scope='module')
def convnext():
    """Weights of released ParC-ConvNeXt-XT."""
    return weights('parc_convnext_xt')


def detector(name, released, **others):
    """Checkpoint of an authors' detector: their names for detection, behind the prefix of a detector's backbone."""
    names = dense_names(name)
    state_dict = {f'backbone.{names[key]}': value for key, value in released.items() if key in names}
    state_dict.update({'neck.lateral_convs.0.conv.weight': torch.zeros(1)}, **others)
    return dict(state_dict=state_dict, meta=dict(epoch=36))


def test_backbone_of_an_authors_detector_loads(save):
    released = weights('parc_mobilenetv2')
    backbone = ParCMobileNetV2()
    Released(save(detector('parc_mobilenetv2', released)))(backbone)
    assert_loaded(backbone, convert(released, 'ParCMobileNetV2'))


def test_output_norms_of_an_authors_detector_load(convnext, save):
    norms = fill({f'norm{i}.{part}': (48 * 2**i, ) for i in range(4) for part in ('weight', 'bias')})
    file = detector('parc_convnext_xt', convnext, **{f'backbone.{key}': value for key, value in norms.items()})
    backbone = ParCConvNeXt('xtiny')
    Released(save(file))(backbone)
    assert_loaded(backbone, convert(convnext, 'ParCConvNeXt'))
    assert_loaded(backbone, {f'out_norms.{key[len("norm"):]}': value for key, value in norms.items()})
    assert_refused(ParCConvNeXt('xtiny', out_norm=False), save(file), ['the model has no out_norms.0.weight'])

    del file['state_dict']['backbone.norm2.weight']
    assert_refused(ParCConvNeXt('xtiny'), save(file), ['the file lacks out_norms.2.weight'])


def test_output_norms_of_a_parc_backbone_keep_their_start(convnext, save):
    backbone = ParCConvNeXt('xtiny')
    Released(save({'model': convnext}))(backbone)
    assert_loaded(backbone, convert(convnext, 'ParCConvNeXt'))
    for norm in backbone.out_norms:
        assert (norm.weight == 1).all() and (norm.bias == 0).all()


def test_a_stage_behind_the_last_output_may_be_absent(save):
    released = weights('parcnet_xs')
    gone = ('conv_1x1_exp.', *CLASSIFIERS['ParCNet'])
    file = {f'encoder.{key}': value for key, value in released.items() if not key.startswith(gone)}
    file['ssd_heads.0.weight'] = torch.zeros(1)
    backbone = ParCNet('xs')
    Released(save(file))(backbone)
    assert_loaded(backbone, {key: value for key, value in convert(released, 'ParCNet').items()
                             if not key.startswith('stages.4.')})
    assert_refused(ParCNet('xs', out_indices=(3, 4)), save(file), ['the file lacks stages.4.0.0.weight'])

    file['encoder.conv_1x1_exp.block.conv.weight'] = released['conv_1x1_exp.block.conv.weight']
    assert_refused(ParCNet('xs'), save(file), ['the file lacks stages.4.0.1.weight'])


def test_a_repeated_block_that_differs_is_refused(save):
    released = weights('parcnet_xs')
    key = 'block.exp_1x1.block.norm.weight'
    released[f'residual.{key}'] = released[f'residual.{key}'] + 1
    backbone = ParCNet('xs')
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    path = save(released)
    with pytest.raises(ValueError, match=f'^{path}: 1 keys .* their tensors differ: residual.{key} from layer_5.0.{key}$'):
        Released(path)(backbone)
    assert_loaded(backbone, before)


@pytest.fixture(scope='module')
def mobilenet():
    """Weights under the names of torchvision's MobileNetV2."""
    with torch.device('meta'):
        model = torchvision.models.mobilenet_v2()
    return fill({key: tuple(value.shape) for key, value in model.state_dict().items()})


@pytest.mark.parametrize('with_counters', [True, False])
def test_baseline_starts_from_public_weights(with_counters, mobilenet, save):
    file = {key: value for key, value in mobilenet.items()
            if with_counters or not key.endswith('.num_batches_tracked')}
    backbone = ParCMobileNetV2(insert_locations=())
    Released(save(file))(backbone)
    assert_loaded(backbone, convert(mobilenet, 'ParCMobileNetV2'))


def test_weights_of_the_baseline_are_told_from_those_of_the_network(mobilenet, save):
    assert_refused(ParCMobileNetV2(), save(mobilenet), [
        'the file holds ParCMobileNetV2 1.0 with insert_locations=(), the model is ParCMobileNetV2 1.0; the file lacks '
        'stages.2.2.depthwise.0.h.weight'])
    assert_refused(ParCMobileNetV2(insert_locations=()), save(weights('parc_mobilenetv2')), [
        'the file holds ParCMobileNetV2 1.0, the model is ParCMobileNetV2 1.0 with insert_locations=(); the file lacks '
        'stages.2.2.depthwise.0.weight'])


def too_many(released):
    released['blocks.0.0.attn.scale'] = torch.zeros(1)


def too_few(released):
    del released['ds2.norm1.running_var']


def wrong_shape(released):
    released['patch_embed.0.weight'] = torch.zeros(16, 4, 3, 3)


def all_three(released):
    too_many(released)
    too_few(released)
    wrong_shape(released)


@pytest.mark.parametrize('spoil, messages', [
    (too_many, ['the model has no blocks.0.0.attn.scale']),
    (too_few, ['the file lacks downsamples.1.conv_norm.running_var']),
    (wrong_shape, ['the file has the shapes stem.0.weight (16, 4, 3, 3) instead of (16, 3, 3, 3)']),
    (all_three, ['the model has no blocks.0.0.attn.scale', 'the file lacks downsamples.1.conv_norm.running_var',
                 'stem.0.weight (16, 4, 3, 3) instead of (16, 3, 3, 3)']),
])
def test_a_file_that_does_not_fit_changes_nothing(spoil, messages, released, save):
    file = dict(released)
    spoil(file)
    assert_refused(TransCNN('small'), save(file), messages)


@pytest.mark.parametrize('name, messages', [
    ('transcnn_small', ['the file holds TransCNN base, the model is TransCNN small; the model has no stages.0.2.attn']),
    ('hatnet_tiny', ['the file holds HATNet tiny, the model is TransCNN small; the file lacks stem.1.running_mean']),
])
@pytest.mark.parametrize('names', ['of the release', 'ours'])
def test_file_of_another_network_is_recognised(name, messages, names, save):
    file = weights(name)
    if names == 'ours':
        file = {f'backbone.{key}': value for key, value in convert(file, NETWORKS[name]['family']).items()}
    assert_refused(TransCNN('small'), save(file), messages)


@pytest.mark.parametrize('options, messages', [
    (dict(h_mhsa='iterative'),
     ['the file holds TransCNN small, the model is of no released arch; the file lacks']),
    (dict(in_channels=1), ['the model is of no released arch', 'stem.0.weight (16, 3, 3, 3) instead of (16, 1, 3, 3)']),
    (dict(norm_cfg=dict(type='GN', num_groups=1)), ['the model has no stem.1.running_mean']),
])
def test_a_model_unlike_the_release_is_refused(options, messages, released, save):
    assert_refused(TransCNN('small', **options), save(released), messages)


def assert_refused(backbone, path, messages):
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match=f'^{path} does not fit the backbone: ') as error:
        Released(path)(backbone)
    for message in messages:
        assert re.search(re.escape(message), str(error.value))
    assert_loaded(backbone, before)


# ---- a family without a release: files of its own trainings ----

SETFORMER = dict(arch=dict(channels=[16] * 4, depths=[1] * 4, mlp_ratio=1, head_dim=16), num_references=9)


def classifier_of(**options):
    """Weights of a classifier with a SeTformer, which has a norm for its last output alone."""
    backbone = SeTformer(**{**SETFORMER, **options}, out_indices=(3, ))
    for parameter in backbone.parameters():
        nn.init.normal_(parameter)
    return {**{f'backbone.{key}': value for key, value in backbone.state_dict().items()}, 'head.fc.weight': torch.zeros(2, 16)}


def test_a_setformer_starts_from_its_classifier_and_norms_of_other_outputs_keep_their_start(save):
    file = classifier_of()
    backbone = SeTformer(**SETFORMER)
    Released(save(dict(state_dict=file)))(backbone)
    assert_loaded(backbone, {key[len('backbone.'):]: value for key, value in file.items() if key.startswith('backbone.')})
    assert all((norm.weight == 1).all() for norm in backbone.out_norms[:3])


def test_a_setformer_refuses_the_weights_of_another_network(released, save):
    assert_refused(SeTformer('mini'), save(released), ['the file holds TransCNN small', 'the file lacks stem.0.weight'])
    file = classifier_of()
    del file['backbone.stages.1.0.mlp.0.weight']
    assert_refused(SeTformer(**SETFORMER), save(file), ['the file lacks stages.1.0.mlp.0.weight'])


def test_a_setformer_with_other_references_is_told(save):
    file = classifier_of(num_references=(16, 16, 16, 9))
    assert_refused(SeTformer(**SETFORMER), save(file), ['the file has num_references=16 instead of 9; '])


def test_a_setformer_takes_factors_of_layer_scale_as_version_0_1_wrote_them(save):
    file = {key: value[:, None, None] if 'gamma' in key else value
            for key, value in classifier_of(layer_scale_init_value=0.1).items()}
    backbone = SeTformer(**SETFORMER, layer_scale_init_value=0.1)
    Released(save(file))(backbone)
    assert torch.equal(backbone.stages[1][0].gamma2, file['backbone.stages.1.0.gamma2'][:, 0, 0])
    whole = nn.ModuleDict(dict(backbone=backbone))
    weights_of_model = {key: value for key, value in file.items() if key.startswith('backbone.')}
    weights_of_model.update({f'backbone.{key}': value for key, value in backbone.state_dict().items() if 'out_norms' in key})
    assert fitting(weights_of_model, whole, 'old.pth')['backbone.stages.1.0.gamma2'].shape == (16, )


def test_prefix_says_where_in_the_file_the_backbone_is(save):
    file = {f'student.{key}': value for key, value in classifier_of().items()}
    file.update({f'teacher.{key}': value + 1 for key, value in classifier_of().items()})
    backbone = SeTformer(**SETFORMER)
    Released(save(file), prefix='student.backbone.')(backbone)
    assert torch.equal(backbone.stem[0].weight, file['student.backbone.stem.0.weight'])
    with pytest.raises(ValueError, match="released.pth: no key begins with prefix='backbone.'; the keys are student"):
        Released(save(file), prefix='backbone.')(backbone)


def test_unreadable_file_changes_nothing(tmp_path):
    backbone = TransCNN('small', init_cfg=dict(type='hybrid_mm.Released', checkpoint=str(tmp_path / 'none.pth')))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(FileNotFoundError, match='none.pth'):
        backbone.init_weights()
    assert_loaded(backbone, before)


def test_only_backbones_can_be_initialised():
    with pytest.raises(TypeError, match='cannot initialise Conv2d; it belongs into the init_cfg of a backbone'):
        Released('none.pth')(nn.Conv2d(1, 1, 1))
