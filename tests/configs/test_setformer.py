"""Configs of SeTformer: the runs they start from, and recipes that are those of Swin."""
import copy
from pathlib import Path

import mmpretrain
import pytest
import torch
from configs.shipped import (
    SETFORMER_DENSE,
    SETFORMER_SETTINGS,
    SETFORMERS,
    STOCK_PARTS,
    assert_same,
    build,
    flatten,
    for_each,
    load,
    weight_decays,
)
from mmengine import Config
from mmengine.registry import MODELS, DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

# ---- models ----


@for_each(network=SETFORMERS, setting=SETFORMER_DENSE)
def test_dense_config_of_setformer_starts_from_our_imagenet_run(setting, network):
    backbone, imagenet = load(setting.format(network)).model.backbone, load(f'imagenet_{network}.py')

    assert (backbone.type, backbone.arch) == ('hybrid_mm.SeTformer', SETFORMERS[network][0])
    assert imagenet.model.backbone.arch == backbone.arch
    checkpoint = f'work_dirs/imagenet_{network}/epoch_{imagenet.train_cfg.max_epochs}.pth'
    assert backbone.init_cfg == dict(type='hybrid_mm.Released', checkpoint=checkpoint)
    assert imagenet.default_hooks.checkpoint.get('by_epoch', True) and not imagenet.get('work_dir')


def test_imagenet_run_of_setformer_starts_a_detector(tmp_path):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(copy.deepcopy(load('imagenet_setformer_m.py').model))
    file = tmp_path / 'epoch_300.pth'
    torch.save(dict(meta=dict(epoch=300), state_dict=classifier.state_dict(), optimizer={}), file)
    cfg = copy.deepcopy(load('maskrcnn_setformer_m.py').model.backbone)
    cfg.init_cfg.checkpoint = str(file)
    backbone = MODELS.build(cfg)

    backbone.init_weights()

    trained, ours = classifier.backbone.state_dict(), backbone.state_dict()
    assert ours.keys() - trained.keys() == {f'out_norms.{i}.{name}' for i in range(3) for name in ('weight', 'bias')}
    assert all(torch.equal(trained[key], ours[key]) for key in trained)


def test_absent_checkpoint_of_setformer_stops_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='no checkpoint file work_dirs/imagenet_setformer_t/epoch_300.pth'):
        MODELS.build(load('upernet_setformer_t.py').model.backbone).init_weights()


@for_each(network=SETFORMERS, setting=SETFORMER_SETTINGS)
def test_larger_setformers_drop_more_paths(setting, network):
    rates = dict(zip(('imagenet', 'maskrcnn', 'upernet'), SETFORMERS[network][1:]), cascade=SETFORMERS[network][2])

    assert load(setting.format(network)).model.backbone.drop_path_rate == rates[setting.split('_')[0]]


@for_each(network=SETFORMERS)
def test_setformer_has_a_norm_on_each_output_and_no_dropout(network):
    norms = [build(setting.format(network)).backbone.out_norms for setting in SETFORMER_SETTINGS]

    assert [sum(isinstance(norm, torch.nn.LayerNorm) for norm in part) for part in norms] == [4, 4, 4, 4, 1]
    assert load(f'imagenet_{network}.py').model.neck.dropout == 0.


@for_each(head=['maskrcnn', 'upernet'])
def test_softmax_on_shapes_differs_from_transport_in_the_attention_alone(head):
    transport, softmax = (flatten(load(f'{head}_setformer_m{name}_shapes.py').to_dict()) for name in ('', '_softmax'))
    different = {key for key in transport.keys() | softmax.keys() if transport.get(key) != softmax.get(key)}

    assert different == {'.model.backbone.attention'}
    assert softmax['.model.backbone.attention'] == 'softmax'


# ---- recipes ----


@for_each(case=[
    ('maskrcnn_setformer_t.py', 'maskrcnn_transcnn_s.py', ['model', 'optim_wrapper.optimizer', *STOCK_PARTS, 'auto_scale_lr']),
    ('maskrcnn_setformer_t_3x.py', 'maskrcnn_transcnn_s_3x.py',
     ['model', 'optim_wrapper.optimizer', *STOCK_PARTS, 'auto_scale_lr']),
    ('cascade_maskrcnn_setformer_t_3x.py', 'cascade_maskrcnn_parcnet_s_3x.py',
     ['model', 'train_dataloader', 'test_dataloader']),
    ('cascade_maskrcnn_setformer_t_3x.py', 'maskrcnn_transcnn_s_3x.py',
     ['optim_wrapper.optimizer', *STOCK_PARTS, 'auto_scale_lr']),
    ('upernet_setformer_t.py', 'upernet_hatnet_t.py',
     ['model', 'optim_wrapper.type', 'optim_wrapper.optimizer', *STOCK_PARTS, 'auto_scale_lr', 'tta_model', 'tta_pipeline']),
])
def test_dense_recipe_of_setformer_is_swins(case):
    """The others' recipes, which other tests compare with MMDetection's and MMSegmentation's, but for the network's own."""
    name, stock, parts = case
    ours, stock = (flatten(load(config).to_dict()) for config in (name, stock))
    own = ('.model.backbone.', '.model.data_preprocessor.')
    different = {key for key in ours.keys() | stock.keys() if ours.get(key) != stock.get(key) and not key.startswith(own)}
    different = {key for key in different if not key.endswith('in_channels')}

    assert not {key for key in different if any(key == f'.{part}' or key.startswith(f'.{part}.') for part in parts)}


@for_each(network=SETFORMERS)
def test_recipes_of_setformer(network):
    for setting, epochs, steps in (('maskrcnn_{}.py', 12, [8, 11]), ('maskrcnn_{}_3x.py', 36, [27, 33]),
                                   ('cascade_maskrcnn_{}_3x.py', 36, [27, 33])):
        cfg = load(setting.format(network))
        assert cfg.optim_wrapper.type == 'AmpOptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
        assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
        assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].milestones) == (epochs, steps)
        assert ('RandomChoice' in [step.type for step in cfg.train_dataloader.dataset.pipeline]) == (epochs == 36)
    cfg = load(f'upernet_{network}.py')
    assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    assert (cfg.param_scheduler[0].end, cfg.train_cfg.max_iters, cfg.model.test_cfg.mode) == (1500, 160000, 'whole')


@for_each(network=SETFORMERS)
def test_classifier_of_setformer_follows_the_recipe_of_swin(network):
    cfg = load(f'imagenet_{network}.py')
    stock = Path(mmpretrain.__file__).parent / '.mim' / 'configs' / 'swin_transformer'
    swin = Config.fromfile(stock / 'swin-tiny_16xb64_in1k.py')
    warm_up, cosine = cfg.param_scheduler

    assert_same(cfg.train_dataloader, swin.train_dataloader, ['sampler', 'dataset'])
    assert_same(cfg.val_dataloader, swin.val_dataloader, ['sampler', 'dataset'])
    assert_same(cfg, swin, ['data_preprocessor', 'val_evaluator', 'train_cfg', 'val_cfg', 'test_cfg'])
    assert_same(cfg.model, swin.model, ['train_cfg'])
    assert_same(cfg.model.head, swin.model.head, ['num_classes', 'loss'])
    assert_same(cfg.optim_wrapper, swin.optim_wrapper, ['optimizer', 'clip_grad'])
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == swin.auto_scale_lr.base_batch_size
    assert flatten(warm_up) == {**flatten(swin.param_scheduler[0]), '.begin': 0}
    assert (cosine.eta_min, cosine.begin, cosine.end, cfg.train_cfg.max_epochs) == (5e-6, 20, 300, 300)
    assert not any('Average' in hook.type or 'EMA' in hook.type for hook in cfg.custom_hooks)


@for_each(setting=[*SETFORMER_SETTINGS, 'maskrcnn_{}_shapes.py', 'upernet_{}_shapes.py'])
def test_norms_and_references_are_free_of_weight_decay(setting):
    name = setting.format('setformer_m')
    weight_decay = load(name).optim_wrapper.optimizer.weight_decay
    no_biases = setting.startswith('imagenet')
    norms = {f'{prefix}.{key}' for prefix, module in build(name).named_modules()
             if isinstance(module, (_BatchNorm, torch.nn.LayerNorm)) for key in ('weight', 'bias')}
    decays = weight_decays(name)

    assert sum(key.endswith('.attn.references') for key in decays) == 18 and norms <= decays.keys()
    for key, (_, decay) in decays.items():
        is_free = key in norms or key.endswith('.attn.references') or (no_biases and key.endswith('.bias'))
        assert decay == (0 if is_free else weight_decay), key
