"""Released key names: conversion, and finding out what a state dict holds."""
import re

import numpy as np
import pytest
import torch
import torchvision
from reference.released_weights import CLASSIFIERS, NETWORKS, dense_names, empty_weights, weights

from hybrid_mm.checkpoints import convert, identify, identify_network
from hybrid_mm.checkpoints.conversion import rename_keys
from hybrid_mm.checkpoints.key_maps import KEY_MAPS, KeyMap, rules
from hybrid_mm.registry import MODELS

PARC = ['parc_resnet50', 'parc_mobilenetv2', 'parc_convnext_xt']


@pytest.mark.parametrize('name', NETWORKS)
def test_every_release_loads_strictly_into_its_backbone(name):
    network = NETWORKS[name]
    with torch.device('meta'):
        backbone = MODELS.get(network['family'])(network['arch'], **network.get('options', {}))
    backbone.load_state_dict(convert(empty_weights(name), network['family']), strict=True)


@pytest.mark.parametrize('name', NETWORKS)
def test_head_keeps_every_tensor_under_the_names_of_an_image_classifier(name):
    family, released = NETWORKS[name]['family'], listed_once(name)
    backbone, classifier = convert(released, family), convert(released, family, head=True)
    assert len(classifier) == len(released)
    behind = {key: value for key, value in classifier.items() if not key.startswith('backbone.')}
    ours = ('neck.norm.', 'head.fc.')[-len(CLASSIFIERS[family]):]
    expected = {ours + part: released[theirs + part] for ours, theirs in zip(ours, CLASSIFIERS[family])
                for part in ('weight', 'bias')}
    assert behind.keys() == expected.keys()
    assert all(behind[key] is expected[key] for key in behind)
    assert [key[len('backbone.'):] for key in classifier if key not in behind] == list(backbone)


def listed_once(name):
    again, _ = NETWORKS[name].get('repeats', (None, None))
    return {key: value for key, value in empty_weights(name).items() if not (again and key.startswith(again))}


@pytest.mark.parametrize('name', PARC)
def test_names_of_the_detection_code_become_the_same_as_those_of_the_release(name):
    family, released, names = NETWORKS[name]['family'], empty_weights(name), dense_names(name)
    dense = {names[key]: released[key] for key in names}
    assert list(names) != list(dense)
    ours, expected = convert(dense, family), convert(released, family)
    assert list(ours) == list(expected)
    assert all(ours[key] is expected[key] for key in ours)


def test_norms_of_the_detection_code_become_output_norms():
    dense = {f'norm{i}.{part}': torch.zeros(1) for i in range(4) for part in ('weight', 'bias')}
    assert list(convert(dense, 'ParCConvNeXt')) == [f'out_norms.{key[len("norm"):]}' for key in dense]


def baseline_keys(family):
    """Keys and shapes of a network that a family improves on, as torchvision and the code of ConvNeXt name them."""
    with torch.device('meta'):
        if family == 'ParCResNet':
            return torchvision.models.resnet50().state_dict()
        if family == 'ParCMobileNetV2':
            return torchvision.models.mobilenet_v2().state_dict()
        state_dict = {}
        for key, value in empty_weights('parc_convnext_xt').items():
            block, is_parc, _ = key.partition('.gcc_')
            if is_parc:
                channels = 192 if block.startswith('stages.2') else 384
                state_dict[f'{block}.dwconv.weight'] = torch.empty(channels, 1, 7, 7)
                state_dict[f'{block}.dwconv.bias'] = torch.empty(channels)
            else:
                state_dict[key] = value
        return state_dict


BASELINES = [('ParCResNet', 50), ('ParCMobileNetV2', 1.0), ('ParCConvNeXt', 'xtiny')]


@pytest.mark.parametrize('family, arch', BASELINES)
def test_public_weights_of_a_baseline_load_strictly_into_the_backbone_without_parc(family, arch):
    with torch.device('meta'):
        backbone = MODELS.get(family)(arch, insert_locations=(), out_norm=False)
    backbone.load_state_dict(convert(baseline_keys(family), family), strict=True)


@pytest.mark.parametrize('family, arch', BASELINES)
@pytest.mark.parametrize('with_counters', [True, False])
def test_a_baseline_is_told_from_the_network_of_its_family(family, arch, with_counters):
    released = {key: value for key, value in baseline_keys(family).items()
                if with_counters or not key.endswith('.num_batches_tracked')}
    assert identify(released) == (family, arch)
    assert str(identify_network(released)) == f'{family} {arch} with insert_locations=()'


@pytest.mark.parametrize('name', ['parcnet_s', 'parcnet_xs'])
def test_a_block_listed_twice_is_converted_once(name):
    released, once = weights(name), listed_once(name)
    assert len(released) == len(once) + 18
    converted = convert(released, 'ParCNet')
    assert list(converted) == list(convert(once, 'ParCNet'))
    assert converted['downsamples.3.expand.0.weight'] is released['layer_5.0.block.exp_1x1.block.conv.weight']


@pytest.mark.parametrize('other', [torch.zeros(160), torch.zeros(80), np.zeros(160)])
def test_a_repeated_tensor_that_differs_is_an_error(other):
    first = np.ones(160) if isinstance(other, np.ndarray) else torch.ones(160)
    key = 'block.red_1x1.block.norm.bias'
    message = f'1 keys of this ParCNet repeat others, but their tensors differ: residual.{key} from layer_5.0.{key}$'
    with pytest.raises(ValueError, match=message):
        convert({f'residual.{key}': other, f'layer_5.0.{key}': first}, 'ParCNet')


def test_a_repeated_tensor_that_is_listed_nowhere_else_is_an_error():
    with pytest.raises(ValueError, match='1 of 1 keys are not of a released ParCNet: residual.block.conv.weight$'):
        convert({'residual.block.conv.weight': torch.zeros(1)}, 'ParCNet')


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


@pytest.mark.parametrize('table, key, name', [
    ({'blocks.#.norm#.*': 'stages.#.#.norm.*'}, 'blocks.3.norm12.running_var', 'stages.3.12.norm.running_var'),
    ({'blocks.#.*': 'norm.*'}, 'blocks.3.bias', 'norm.bias'),
    ({'{parc,gcc}_H.pe': 'h.pos_embed'}, 'gcc_H.pe', 'h.pos_embed'),
    ({'{parc,gcc}_H.pe': 'h.pos_embed'}, 'parc_HApe', None),
    ({'blocks.#.*': 'norm.*'}, 'blocks.3.4.bias', None),
    ({'blocks.#.*': 'norm.*'}, 'blocks.3.gamma', None),
])
def test_table_of_names(table, key, name, monkeypatch):
    monkeypatch.setitem(KEY_MAPS, 'Table', KeyMap(backbone=rules(table), classifier=()))
    assert rename_keys([key], 'Table') == (({key: name}, []) if name else ({}, [key]))


def test_head_of_a_release_without_classifier_is_an_error():
    with pytest.raises(ValueError, match='head=True, but this state dict of TransCNN has no classifier'):
        convert({'patch_embed.0.weight': torch.zeros(1)}, 'TransCNN', head=True)


def test_unknown_family_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="family='ResNet' is unknown; choose from TransCNN, HATNet"):
        convert({}, 'ResNet')


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('classifier', [True, False])
def test_family_and_arch_are_found_from_keys_and_shapes(name, classifier):
    network = NETWORKS[name]
    behind = CLASSIFIERS[network['family']]
    released = {key: value for key, value in empty_weights(name).items() if classifier or not key.startswith(behind)}
    assert identify(released) == (network['family'], network['arch'])
    assert str(identify_network(released)) == f'{network["family"]} {network["arch"]}'


@pytest.mark.parametrize('name', PARC)
def test_family_and_arch_are_found_from_the_names_of_the_detection_code(name):
    released = empty_weights(name)
    dense = {name: released[key] for key, name in dense_names(name).items()}
    if name == 'parc_convnext_xt':
        dense.update({f'norm{i}.{part}': torch.empty(48 * 2**i) for i in range(4) for part in ('weight', 'bias')})
    assert identify(dense) == (NETWORKS[name]['family'], NETWORKS[name]['arch'])


def test_parc_net_is_found_without_what_its_detectors_remove():
    released = {key: value for key, value in empty_weights('parcnet_s').items()
                if not key.startswith(('conv_1x1_exp.', 'classifier.'))}
    assert identify(released) == ('ParCNet', 's')


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
    with pytest.raises(ValueError, match=r'no key is of a known release \(TransCNN, .*\): class_token, blocks.0.norm$'):
        identify({'class_token': torch.zeros(1), 'blocks.0.norm': torch.zeros(1)})
