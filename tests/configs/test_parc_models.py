"""Networks in the configs of ParC: their checkpoints, their baselines, and what learns."""
import copy

import pytest
import torch
from configs.shipped import BASELINES, CONVNEXTS, PARC, PARC_DENSE, PARC_SETTINGS, build, flatten, for_each, load
from mmengine.registry import MODELS, DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm


@for_each(network=PARC, setting=PARC_DENSE)
def test_dense_config_of_parc_starts_from_a_file_of_the_user(setting, network):
    kind, variant, checkpoint = PARC[network]
    for name, path in ((network, checkpoint), (f'{network}_baseline', f'work_dirs/imagenet_{network}_baseline/epoch_300.pth')):
        if name == network or network in BASELINES:
            backbone = load(setting.format(name)).model.backbone
            assert backbone.type == f'hybrid_mm.{kind}'
            assert {key: backbone[key] for key in variant} == variant
            assert backbone.init_cfg == dict(type='hybrid_mm.Released', checkpoint=path)


@for_each(network=PARC)
def test_checkpoint_of_a_dense_config_is_the_last_one_of_our_imagenet_run(network):
    cfg = load(f'imagenet_{network}.py')

    if network != 'parcnet_s':  # the authors' file
        assert PARC[network][2] == f'work_dirs/imagenet_{network}/epoch_{cfg.train_cfg.max_epochs}.pth'
    assert cfg.default_hooks.checkpoint.get('by_epoch', True) and not cfg.get('work_dir')


def test_absent_checkpoint_stops_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='no checkpoint file work_dirs/imagenet_parc_mbv2/epoch_300.pth'):
        MODELS.build(load('maskrcnn_parc_mbv2.py').model.backbone).init_weights()


@pytest.mark.parametrize('network', ['parc_mbv2', 'parc_convnext_xt', 'parcnet_xs'])
def test_checkpoint_of_our_imagenet_run_starts_a_dense_config(network, tmp_path):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(copy.deepcopy(load(f'imagenet_{network}.py').model))
    file = tmp_path / 'epoch_300.pth'
    torch.save(dict(meta=dict(epoch=300), state_dict=classifier.state_dict(), ema_state_dict={}, optimizer={}), file)
    cfg = copy.deepcopy(load(f'cascade_maskrcnn_{network}_3x.py').model.backbone)
    cfg.init_cfg.checkpoint = str(file)
    backbone = MODELS.build(cfg)

    backbone.init_weights()

    trained, ours = classifier.backbone.state_dict(), backbone.state_dict()
    assert ours.keys() - trained.keys() == {key for key in ours if key.startswith('out_norms.')}
    assert all(torch.equal(trained[key], ours[key]) for key in trained)


@for_each(network=BASELINES, setting=PARC_SETTINGS)
def test_baseline_differs_from_its_partner_in_the_insert_locations_alone(setting, network):
    partner, baseline = (flatten(load(setting.format(name)).to_dict()) for name in (network, f'{network}_baseline'))
    different = {key for key in partner.keys() | baseline.keys() if partner.get(key) != baseline.get(key)}
    # each starts from the checkpoint of its own network
    start = set() if setting.startswith('imagenet') else {'.model.backbone.init_cfg.checkpoint'}

    assert different == {'.model.backbone.insert_locations', *start}
    assert baseline['.model.backbone.insert_locations'] == []


def test_baseline_on_shapes_differs_from_its_partner_in_the_insert_locations_alone():
    partner, baseline = (flatten(load(f'maskrcnn_{name}_shapes.py').to_dict()) for name in ('parc_r50', 'parc_r50_baseline'))
    different = {key for key in partner.keys() | baseline.keys() if partner.get(key) != baseline.get(key)}

    assert different == {'.model.backbone.insert_locations'}


@for_each(network=PARC)
def test_insert_locations_of_the_config_are_those_of_the_class(network):
    name = f'imagenet_{network}.py'
    backbone = copy.deepcopy(load(name).model.backbone)
    assert backbone.pop('insert_locations')

    with torch.device('meta'):
        assert [*MODELS.build(backbone).state_dict()] == [*build(name).backbone.state_dict()]


@for_each(network=BASELINES)
def test_baseline_has_no_parc(network):
    assert any('.h.weight' in key for key in build(f'maskrcnn_{network}.py').backbone.state_dict())
    assert not any('.h.weight' in key for key in build(f'maskrcnn_{network}_baseline.py').backbone.state_dict())


@for_each(name=['maskrcnn_parc_r50.py', 'cascade_maskrcnn_parc_r50_3x.py', 'upernet_parc_r50.py'])
def test_stem_and_first_stage_of_resnet_are_frozen_and_batch_norm_keeps_its_statistics(name):
    backbone = build(name).train().backbone
    learns = {'.'.join(key.split('.')[:2]) for key, parameter in backbone.named_parameters() if parameter.requires_grad}
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]

    assert {key for key in learns if key.startswith(('stem', 'stages'))} == {'stages.1', 'stages.2', 'stages.3'}
    assert norms and not any(norm.training for norm in norms)


@for_each(setting=PARC_DENSE)
def test_all_of_mobilenet_learns_and_batch_norm_takes_new_statistics(setting):
    backbone = build(setting.format('parc_mbv2')).train().backbone
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]

    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert norms and all(norm.training for norm in norms)
    assert {isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms} == {setting.startswith('upernet')}


@for_each(network=CONVNEXTS)
def test_convnext_has_output_norms_in_dense_tasks_and_a_norm_of_the_pooled_vector_in_classification(network):
    for setting in PARC_DENSE:
        assert build(setting.format(network)).backbone.out_norm
    classifier = build(f'imagenet_{network}.py')

    assert not classifier.backbone.out_norm
    assert isinstance(classifier.neck.norm, torch.nn.LayerNorm) and classifier.neck.norm.eps == 1e-6


@for_each(network=CONVNEXTS, setting=PARC_SETTINGS)
def test_convnext_drops_more_paths_in_dense_tasks(setting, network):
    rate = load(setting.format(network)).model.backbone.drop_path_rate

    assert rate == (0.1 if setting.startswith('imagenet') else 0.4)
