"""``init_cfg=dict(type='hybrid_mm.Released', ...)``: all of a release, or an error and nothing."""
import re

import pytest
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.model import BaseModule
from reference.released_weights import NETWORKS, weights
from torch import nn

from hybrid_mm.backbones import TransCNN
from hybrid_mm.checkpoints import Released, convert
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


def test_unreadable_file_changes_nothing(tmp_path):
    backbone = TransCNN('small', init_cfg=dict(type='hybrid_mm.Released', checkpoint=str(tmp_path / 'none.pth')))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(FileNotFoundError, match='none.pth'):
        backbone.init_weights()
    assert_loaded(backbone, before)


def test_only_backbones_can_be_initialised():
    with pytest.raises(TypeError, match='cannot initialise Conv2d; it belongs into the init_cfg of a backbone'):
        Released('none.pth')(nn.Conv2d(1, 1, 1))
