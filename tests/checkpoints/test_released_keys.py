"""Released key names: conversion, and finding out what a state dict holds."""
import re

import numpy as np
import pytest
import torch
from reference.released_weights import NETWORKS, empty_weights

from hybrid_mm.checkpoints import convert, identify
from hybrid_mm.checkpoints.key_maps import KEY_MAPS, KeyMap
from hybrid_mm.registry import MODELS


@pytest.mark.parametrize('name', NETWORKS)
def test_every_release_loads_strictly_into_its_backbone(name):
    family, arch = NETWORKS[name]['family'], NETWORKS[name]['arch']
    with torch.device('meta'):
        backbone = MODELS.get(family)(arch=arch)
    backbone.load_state_dict(convert(empty_weights(name), family), strict=True)


@pytest.mark.parametrize('name', NETWORKS)
def test_head_keeps_every_tensor_under_the_names_of_an_image_classifier(name):
    family, released = NETWORKS[name]['family'], empty_weights(name)
    backbone, classifier = convert(released, family), convert(released, family, head=True)
    assert len(classifier) == len(released)
    assert {key for key in classifier if not key.startswith('backbone.')} == {'head.fc.weight', 'head.fc.bias'}
    assert [key[len('backbone.'):] for key in classifier if key.startswith('backbone.')] == list(backbone)
    assert classifier['head.fc.weight'] is released['classifier.1.weight']


def test_conversion_hands_over_the_values_untouched():
    weight, bias = torch.rand(3), np.arange(3, dtype=np.float16)
    converted = convert({'blocks.2.11.attn.ds_norm.weight': weight, 'ds3.norm1.bias': bias}, 'TransCNN')
    assert converted['stages.2.11.attn.pool_norm.weight'] is weight
    assert converted['downsamples.2.conv_norm.bias'] is bias


def test_only_the_classifier_is_dropped():
    released = empty_weights('hatnet_tiny')
    assert len(convert(released, 'HATNet')) == len(released) - 2


@pytest.mark.parametrize('key', [
    'patch_embed.2.weight', 'blocks.0.0.attn.scale', 'classifier.2.weight', 'ds1.conv.weight',
    'blocks.0.0.attn.proj_norm.weight', 'stem.0.weight', 'module.patch_embed.0.weight'
])
def test_a_key_left_over_is_an_error_that_names_it(key):
    with pytest.raises(ValueError, match=rf'1 of 436 keys are not of a released TransCNN: {key}$'):
        convert({**empty_weights('transcnn_tiny'), key: torch.zeros(1)}, 'TransCNN')


def test_many_keys_left_over_are_counted():
    with pytest.raises(ValueError, match=r'10 of 10 keys .*: layer.0, layer.1, .*, layer.7 and 2 more$'):
        convert({f'layer.{i}': torch.zeros(1) for i in range(10)}, 'TransCNN')


def test_two_keys_of_one_name_are_an_error(monkeypatch):
    monkeypatch.setitem(KEY_MAPS, 'Twins', KeyMap(backbone=((r'(a|b)\.weight', 'c.weight'), ), classifier=()))
    with pytest.raises(ValueError, match='a.weight and b.weight of this Twins would both become c.weight'):
        convert({'a.weight': torch.zeros(1), 'b.weight': torch.zeros(1)}, 'Twins')


def test_head_of_a_release_without_classifier_is_an_error():
    with pytest.raises(ValueError, match='head=True, but this state dict of TransCNN has no classifier'):
        convert({'patch_embed.0.weight': torch.zeros(1)}, 'TransCNN', head=True)


def test_unknown_family_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="family='ResNet' is unknown; choose from TransCNN, HATNet"):
        convert({}, 'ResNet')


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('classifier', [True, False])
def test_family_and_arch_are_found_from_keys_and_shapes(name, classifier):
    released = {key: value for key, value in empty_weights(name).items() if classifier or 'classifier' not in key}
    assert identify(released) == (NETWORKS[name]['family'], NETWORKS[name]['arch'])


def test_a_network_between_the_known_archs_is_compared_with_the_closest():
    released = empty_weights('transcnn_medium')
    released['blocks.3.2.attn.proj.bias'] = torch.zeros(7)
    del released['ds2.conv.bias']
    message = ('the tensors fit no arch of TransCNN (small, base, medium, large); compared with medium, '
               'the file lacks downsamples.1.conv.bias; '
               'the file has the shapes stages.3.2.attn.proj.bias (7,) instead of (640,)')
    with pytest.raises(ValueError, match=re.escape(message)):
        identify(released)


def test_a_state_dict_of_something_else_is_of_no_release():
    with pytest.raises(ValueError, match=r'no key is of a known release \(TransCNN, .*\): layer1.0.conv1.weight$'):
        identify({'layer1.0.conv1.weight': torch.zeros(1)})
