"""Configs of GLiT: the files they start from, and the recipes of the release and of TransCNN."""
import copy
from types import SimpleNamespace

import pytest
import torch
from configs.shipped import DENSE, GLITS, SETTINGS, build, flatten, for_each, load, weight_decays
from mmengine.optim import CosineAnnealingLR
from mmengine.registry import DATA_SAMPLERS, HOOKS, MODELS, DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

# ---- models ----


@for_each(network=GLITS, setting=DENSE)
def test_dense_config_of_glit_starts_from_a_file_of_the_user(setting, network):
    arch, channels, checkpoint, _ = GLITS[network]
    backbone = load(setting.format(network)).model.backbone

    assert (backbone.type, backbone.arch, backbone.drop_path_rate) == ('hybrid_mm.GLiT', arch, 0.1)
    assert build(setting.format(network)).backbone.out_channels == (channels, ) * 4
    assert backbone.init_cfg == dict(type='hybrid_mm.Released', checkpoint=checkpoint)


@for_each(network=GLITS)
def test_checkpoint_of_a_dense_config_of_glit_is_the_last_one_of_our_imagenet_run(network):
    cfg = load(f'imagenet_{network}.py')

    assert cfg.model.backbone.arch == GLITS[network][0]
    if network != 'glit_t':  # the authors' file
        assert GLITS[network][2] == f'work_dirs/imagenet_{network}/epoch_{cfg.train_cfg.max_epochs}.pth'
    assert cfg.default_hooks.checkpoint.get('by_epoch', True) and not cfg.get('work_dir')


def test_absent_checkpoint_of_glit_stops_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='no checkpoint file checkpoints/glit_tiny.pth.tar'):
        MODELS.build(load('upernet_glit_t.py').model.backbone).init_weights()


def test_imagenet_run_of_glit_starts_a_dense_config_with_its_last_weights(tmp_path):
    cfg = load('imagenet_glit_t.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = MODELS.build(copy.deepcopy(cfg.model))
    checkpoint = dict(meta=dict(epoch=310), state_dict=classifier.state_dict(), optimizer={})
    runner = SimpleNamespace(model=copy.deepcopy(classifier))
    torch.nn.init.zeros_(runner.model.backbone.stem.proj.weight)  # stands for an average that differs
    hook = HOOKS.build(copy.deepcopy(cfg.custom_hooks[-1]))
    hook.before_run(runner)
    hook.before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / 'epoch_310.pth')
    dense = copy.deepcopy(load('maskrcnn_glit_t.py').model.backbone)
    dense.init_cfg.checkpoint = str(tmp_path / 'epoch_310.pth')
    backbone = MODELS.build(dense)

    backbone.init_weights()

    trained, ours = classifier.backbone.state_dict(), backbone.state_dict()
    assert trained.keys() - ours.keys() == {'stem.cls_token'}
    assert ours.keys() - trained.keys() == {f'out_norms.{i}.{name}' for i in range(3) for name in ('weight', 'bias')}
    trained['stem.pos_embed'] = trained['stem.pos_embed'][:, 1:]
    assert all(torch.equal(trained[key], ours[key]) for key in trained.keys() & ours.keys())


@for_each(network=GLITS)
def test_classifier_of_glit_is_the_release_with_a_class_token(network):
    model = build(f'imagenet_{network}.py')

    assert model.backbone.mode == 'image' and model.backbone.out_indices == (3, ) and not model.with_neck
    assert sum(parameter.numel() for parameter in model.parameters()) == GLITS[network][3]


@for_each(network=GLITS, setting=DENSE)
def test_glit_attends_in_windows_in_detectors_and_to_the_whole_map_in_segmentors(setting, network):
    backbone = build(setting.format(network)).backbone

    assert backbone.mode == 'dense' and backbone.window_size == 14
    assert backbone.global_blocks == (tuple(range(12)) if setting.startswith('upernet') else (3, 6, 9, 11))


# ---- recipes ----


@for_each(setting=[*DENSE, 'maskrcnn_{}_shapes.py', 'upernet_{}_shapes.py'])
def test_dense_recipe_of_glit_differs_from_transcnns_in_the_network_and_weight_decay_alone(setting):
    """TransCNN's recipes are those that other tests compare with MMDetection's and MMSegmentation's."""
    ours, stock = (load(setting.format(network)).to_dict() for network in ('glit_t', 'transcnn_s'))
    neck = ours['model'].pop('neck')
    fpn = stock['model'].pop('neck', None)
    assert (neck[0] if fpn else neck) == dict(type='hybrid_mm.TokenPyramid', in_channels=[192] * 4)
    assert not fpn or neck[1:] == [dict(fpn, in_channels=[192] * 4)]
    ours, stock = flatten(ours), flatten(stock)
    different = {key for key in ours.keys() | stock.keys() if ours.get(key) != stock.get(key)}
    own = ('.model.backbone.', '.backbone.', '.released.', '.pretrained.', '.channels', '.pyramid.')

    assert {key for key in different if not key.startswith(own) and not key.endswith('_head.in_channels')} <= {
        '.optim_wrapper.paramwise_cfg.bias_decay_mult', '.optim_wrapper.paramwise_cfg.custom_keys.pos_embed.decay_mult'}


@for_each(network=GLITS)
def test_dense_recipes_of_glit(network):
    for setting, epochs, steps in (('maskrcnn_{}.py', 12, [8, 11]), ('maskrcnn_{}_3x.py', 36, [27, 33])):
        cfg = load(setting.format(network))
        assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
        assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
        assert (cfg.train_cfg.max_epochs, cfg.param_scheduler[1].milestones) == (epochs, steps)
        assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    cfg = load(f'upernet_{network}.py')
    warm_up, poly = cfg.param_scheduler
    assert cfg.optim_wrapper.type == 'OptimWrapper' and 'clip_grad' not in cfg.optim_wrapper
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01)
    assert (warm_up.end, poly.power, poly.end, cfg.train_cfg.max_iters) == (1500, 1., 160000, 160000)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.decode_head.channels == 512 and cfg.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert cfg.tta_model.type == 'SegTTAModel'


@for_each(network=GLITS)
def test_classifier_of_glit_follows_the_release(network):
    cfg = load(f'imagenet_{network}.py')
    warm_up, cosine = cfg.param_scheduler
    loader, optim_wrapper, average = cfg.train_dataloader, cfg.optim_wrapper, cfg.custom_hooks[-1]
    train, test = ({step.type: step for step in part.dataset.pipeline} for part in (loader, cfg.test_dataloader))

    assert optim_wrapper.type == 'AmpOptimWrapper' and optim_wrapper.clip_grad == dict(max_norm=1.0)
    assert optim_wrapper.optimizer == dict(type='AdamW', lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05)
    assert loader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert DATA_SAMPLERS.build(loader.sampler, default_args=dict(dataset=range(9), seed=0)).num_repeats == 3
    assert warm_up.start_factor * optim_wrapper.optimizer.lr == pytest.approx(1e-6)
    assert (warm_up.end, cosine.begin, cosine.end, cosine.eta_min, cfg.train_cfg.max_epochs) == (5, 5, 300, 1e-5, 310)
    assert average == dict(type='hybrid_mm.WeightAverageHook', momentum=pytest.approx(1 - 0.99996), update_buffers=True)
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert train['RandomResizedCrop'].scale == test['CenterCrop'].crop_size == 224 and test['ResizeEdge'].scale == 256
    assert {train['RandomResizedCrop'].interpolation, test['ResizeEdge'].interpolation} == {'bicubic'}
    assert (train['RandAugment'].magnitude_level, train['RandAugment'].magnitude_std) == (9, 0.5)
    assert (train['RandomErasing'].erase_prob, train['RandomErasing'].mode) == (0.25, 'rand')
    assert not any('Jitter' in step for step in train)
    assert cfg.model.head.loss.label_smooth_val == 0.1
    assert cfg.model.train_cfg.augments == [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]


def test_last_ten_epochs_of_glit_run_at_the_last_learning_rate():
    cfg = load('imagenet_glit_t.py')
    cosine = {key: value for key, value in cfg.param_scheduler[1].items() if key != 'type'}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    scheduler, rates = CosineAnnealingLR(optimizer, **cosine), []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()

    assert rates[5] == 1e-3 and len(rates) == 310
    assert rates[300:] == rates[-1:] * 10 and rates[-1] == pytest.approx(1e-5, rel=0.01)


@for_each(setting=[*SETTINGS, 'maskrcnn_{}_shapes.py', 'upernet_{}_shapes.py'])
def test_weight_decay_of_glit(setting):
    name = setting.format('glit_t')
    weight_decay = load(name).optim_wrapper.optimizer.weight_decay
    norms = {f'{prefix}.{key}' for prefix, module in build(name).named_modules()
             if isinstance(module, (_BatchNorm, torch.nn.LayerNorm)) for key in ('weight', 'bias')}
    free = norms | {'backbone.stem.pos_embed', 'backbone.stem.cls_token'}
    decays = weight_decays(name)
    if setting.startswith('imagenet') or setting in ('maskrcnn_{}.py', 'maskrcnn_{}_3x.py'):  # not in segmentors
        free |= {key for key in decays if key.endswith('.bias')}

    assert ('backbone.stem.cls_token' in decays) == setting.startswith('imagenet') and norms <= decays.keys()
    for key, (parameter, decay) in decays.items():
        assert decay == (0 if key in free else weight_decay), key
        assert decay == 0 or parameter.dim() > 1 or not setting.startswith('imagenet'), key
