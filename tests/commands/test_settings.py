import pytest
from mmengine.config import Config

from hybrid_mm.commands import settings, test, train
from hybrid_mm.commands.runner import adapt_to_cpu
from hybrid_mm.commands.settings import set_up_testing, set_up_training
from hybrid_mm.commands.shared import read_config
from hybrid_mm.engine import HangGuardHook
from hybrid_mm.errors import SetupError


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / 'net.py'
    path.write_text('default_scope = "mmpretrain"\nmodel = dict(type="ImageClassifier")\nval_dataloader = None\n'
                    'train_dataloader = dict(num_workers=2, dataset=dict(type="ImageNet"))\n')
    return str(path)


def read(args):
    return read_config(args.config, args.cfg_options, args.work_dir, args.launcher)


# ---- Reading ----

def test_work_dir_is_the_option_or_the_config_s_or_the_name_of_the_config(config_file):
    assert read(train.parser().parse_args([config_file])).work_dir == './work_dirs/net'
    of_config = ['--cfg-options', 'work_dir=of_config']
    assert read(train.parser().parse_args([config_file, *of_config])).work_dir == 'of_config'
    assert read(train.parser().parse_args([config_file, *of_config, '--work-dir', 'own'])).work_dir == 'own'


def test_a_hook_of_the_default_ones_can_be_switched_off(config_file):
    hooks = ['default_hooks.hang_guard.type=hybrid_mm.HangGuardHook', 'default_hooks.data_guard=None', 'default_hooks.timer=None']
    cfg = read(train.parser().parse_args([config_file, '--cfg-options', *hooks]))
    assert cfg.default_hooks == dict(hang_guard=dict(type='hybrid_mm.HangGuardHook'), timer=None)


def test_loaders_of_classifiers_get_what_mmpretrain_s_tools_add(config_file):
    cfg = read(train.parser().parse_args([config_file]))
    assert cfg.train_dataloader == dict(
        num_workers=2, dataset=dict(type='ImageNet'), pin_memory=True,
        persistent_workers=True, collate_fn=dict(type='default_collate'))
    assert cfg.val_dataloader is None
    cfg = read(train.parser().parse_args([config_file, '--cfg-options', 'train_dataloader.num_workers=0']))
    assert cfg.train_dataloader.persistent_workers is False


# ---- Training ----

def trained(*options, device='cuda', monkeypatch=None, **config):
    if monkeypatch is not None:
        monkeypatch.setattr(settings, 'get_device', lambda: device)
    cfg = Config(dict(
        load_from='pretrained.pth', work_dir='nowhere', **{'model': {}, 'optim_wrapper': dict(type='OptimWrapper'), **config}))
    set_up_training(cfg, train.parser().parse_args(['net.py', *options]))
    return cfg


def test_resuming_does_not_fetch_the_release_again(tmp_path):
    released = dict(type='hybrid_mm.Released', checkpoint='https://example.org/net.pth')
    model = dict(backbone=dict(init_cfg=released), neck=dict(init_cfg=dict(type='Xavier')))
    cfg = trained('--resume', model=model)
    assert cfg.model.backbone.init_cfg == released  # there is no checkpoint yet
    cfg = trained('--resume', 'epoch_3.pth', model=model)
    assert cfg.model == dict(backbone=dict(init_cfg=None), neck=dict(init_cfg=dict(type='Xavier')))


def test_resuming_needs_no_file_of_starting_weights():
    """All weights are in the checkpoint, whatever reads the others: initialisers, a list of them, a host inside of WithParC."""
    pretrained = dict(type='Pretrained', checkpoint='gone.pth', prefix='backbone.')
    model = dict(backbone=dict(init_cfg=[dict(type='Kaiming'), pretrained], backbone=dict(init_cfg=pretrained)),
                 pretrained='torchvision://resnet50')
    cfg = trained('--resume', 'epoch_3.pth', model=model)
    assert cfg.model == dict(backbone=dict(init_cfg=[dict(type='Kaiming')], backbone=dict(init_cfg=None)), pretrained=None)


@pytest.mark.parametrize('options, resume, load_from', [
    ([], None, 'pretrained.pth'),
    (['--resume'], False, 'pretrained.pth'),  # there is none, and the training starts as the config says
    (['--resume', 'auto'], False, 'pretrained.pth'),
    (['--resume', 'epoch_3.pth'], True, 'epoch_3.pth'),
])
def test_resume_goes_before_the_config_s_checkpoint(options, resume, load_from):
    cfg = trained(*options)
    assert cfg.get('resume') == resume
    assert cfg.load_from == load_from


def test_amp_wraps_the_optimizer_and_keeps_a_loss_scale(monkeypatch):
    assert trained('--amp', monkeypatch=monkeypatch).optim_wrapper == dict(type='AmpOptimWrapper', loss_scale='dynamic')
    cfg = Config(dict(optim_wrapper=dict(type='AmpOptimWrapper', loss_scale=512.)))
    set_up_training(cfg, train.parser().parse_args(['net.py', '--amp']))
    assert cfg.optim_wrapper.loss_scale == 512.


@pytest.mark.parametrize('wrapper', [{}, dict(type='AmpOptimWrapper', loss_scale=512., dtype='float16')])
def test_amp_is_bfloat16_without_a_gpu(wrapper, monkeypatch):
    cfg = trained('--amp', device='cpu', monkeypatch=monkeypatch, optim_wrapper=dict(wrapper, clip_grad=dict(max_norm=1)))
    assert cfg.optim_wrapper == dict(type='hybrid_mm.AutocastOptimWrapper', clip_grad=dict(max_norm=1))


def test_amp_is_refused_for_other_wrappers(monkeypatch):
    monkeypatch.setattr(settings, 'get_device', lambda: 'cuda')
    with pytest.raises(SetupError, match="--amp .* optim_wrapper.type='ApexOptimWrapper'"):
        set_up_training(
            Config(dict(optim_wrapper=dict(type='ApexOptimWrapper'))), train.parser().parse_args(['net.py', '--amp']))


def test_auto_scale_lr_needs_the_batch_of_the_config():
    assert trained('--auto-scale-lr', auto_scale_lr=dict(enable=False, base_batch_size=16)).auto_scale_lr.enable
    with pytest.raises(SetupError, match='--auto-scale-lr needs auto_scale_lr.base_batch_size'):
        trained('--auto-scale-lr')


# ---- Testing ----

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='Pack')]


def test_compile_is_of_the_backbone_by_a_hook():
    hook = dict(type='hybrid_mm.CompileHook')
    assert trained('--compile').custom_hooks == [dict(hook, enabled=True)]
    assert trained(compile=True).custom_hooks == [hook]  # which takes the key over
    assert 'custom_hooks' not in trained(compile=False)
    there = dict(compile=dict(hook, enabled=False, rounds=3))
    assert trained('--compile', default_hooks=there).default_hooks.compile == dict(hook, enabled=True, rounds=3)
    assert trained(compile=dict(backend='eager'), default_hooks=there).default_hooks == there
    assert set_up('mmdet', '--compile').custom_hooks == [dict(hook, enabled=True)]


def set_up(scope, *options, **config):
    config.setdefault('test_evaluator', dict(type='Metric'))
    cfg = Config(dict(
        default_scope=scope,
        model=dict(type='Net'),
        default_hooks=dict(visualization=dict(type='Hook')),
        visualizer=dict(),
        test_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[dict(pipeline=PIPELINE)] * 2)),
        **config))
    set_up_testing(cfg, test.parser().parse_args(['net.py', 'net.pth', *options]))
    return cfg


@pytest.mark.parametrize('scope, hook, visualizer', [
    ('mmdet', dict(draw=True, test_out_dir='found'), {}),
    ('mmseg', dict(draw=True, interval=1), dict(save_dir='found')),
    ('mmpretrain', dict(enable=True, interval=1, out_dir='found'), {}),
])
def test_show_dir_draws_every_picture(scope, hook, visualizer):
    cfg = set_up(scope, '--show-dir', 'found')
    assert cfg.default_hooks.visualization == dict(type='Hook', **hook)
    assert cfg.visualizer == visualizer


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_show_at_most_leaves_the_choice_to_one_hook(scope):
    cfg = set_up(scope, '--show-dir', 'found', '--show-at-most', '30')
    assert cfg.custom_hooks == [dict(type='hybrid_mm.ShowSomeHook', at_most=30)]
    assert cfg.default_hooks.visualization.get('interval', 1) == 1


def test_show_opens_a_window_for_the_time_given():
    hook = set_up('mmdet', '--show', '--wait-time', '0.5').default_hooks.visualization
    assert hook == dict(type='Hook', draw=True, show=True, wait_time=0.5)


def test_show_needs_a_hook_that_draws():
    cfg = Config(dict(default_scope='mmdet', default_hooks=dict()))
    with pytest.raises(SetupError, match='--show-dir need a visualization hook'):
        set_up_testing(cfg, test.parser().parse_args(['net.py', 'net.pth', '--show']))


@pytest.mark.parametrize('scope, kind', [('mmdet', 'DumpDetResults'), ('mmpretrain', 'DumpResults')])
@pytest.mark.parametrize('evaluator', [dict(type='Metric'), [dict(type='Metric')]])
def test_out_adds_a_dump_of_the_predictions(scope, kind, evaluator):
    cfg = set_up(scope, '--out', 'a.pkl', test_evaluator=evaluator)
    assert cfg.test_evaluator == [dict(type='Metric'), dict(type=kind, out_file_path='a.pkl')]


def test_out_of_segmentation_is_a_folder():
    assert set_up('mmseg', '--out', 'maps').test_evaluator == dict(type='Metric', output_dir='maps')


def test_out_of_detection_has_to_be_a_pickle():
    with pytest.raises(SetupError, match='--out a.json is not allowed; give a file that ends in .pkl or .pickle'):
        set_up('mmdet', '--out', 'a.json')


@pytest.mark.parametrize('scope, kind', [('mmdet', 'DetTTAModel'), ('mmseg', 'SegTTAModel'),
                                         ('mmpretrain', 'AverageClsScoreTTA')])
def test_tta_without_settings_flips(scope, kind):
    cfg = set_up(scope, '--tta')
    assert cfg.model.type == kind and cfg.model.module == dict(type='Net')
    for dataset in cfg.test_dataloader.dataset.datasets:
        load, augment = dataset.pipeline
        assert load == PIPELINE[0]
        flips, (pack, ) = augment.transforms
        assert [flip.prob for flip in flips] == [0., 1.]
        assert pack.type == 'Pack' and ('flip' in pack.get('meta_keys', ())) == (scope == 'mmdet')


def test_tta_takes_the_settings_of_the_config():
    cfg = set_up('mmseg', '--tta', tta_model=dict(type='Mean'), tta_pipeline=[dict(type='Flips')])
    assert cfg.model == dict(type='Mean', module=dict(type='Net'))
    assert cfg.test_dataloader.dataset.datasets[1].pipeline == [dict(type='Flips')]


def test_tta_of_masks_is_refused():
    cfg = Config(dict(default_scope='mmdet', model=dict(roi_head=dict(mask_head=dict(type='FCNMaskHead')))))
    with pytest.raises(SetupError, match='--tta merges boxes, but not masks, and roi_head.mask_head'):
        set_up_testing(cfg, test.parser().parse_args(['net.py', 'net.pth', '--tta']))


# ---- Without a GPU ----

def test_one_process_on_a_cpu_changes_mixed_precision_alone():
    cfg = Config(dict(
        launcher='none', model=dict(norm_cfg=dict(type='SyncBN')),
        optim_wrapper=dict(type='AmpOptimWrapper', loss_scale='dynamic', dtype='float16', clip_grad=dict(max_norm=1))))
    notice, = adapt_to_cpu(cfg)
    assert 'float32' in notice
    assert cfg.optim_wrapper == dict(type='OptimWrapper', clip_grad=dict(max_norm=1))
    assert cfg.model.norm_cfg.type == 'SyncBN'  # the runner reverts it itself
    assert 'model_wrapper_cfg' not in cfg


def test_several_processes_on_a_cpu_get_bn_and_a_wrapper_without_device():
    cfg = Config(dict(
        launcher='pytorch', find_unused_parameters=True,
        model=dict(backbone=dict(norm_cfg=dict(type='SyncBN', eps=1e-3)), heads=[dict(norm_cfg=dict(type='SyncBN'))])))
    notice, = adapt_to_cpu(cfg)
    assert 'SyncBN becomes BN' in notice
    assert cfg.model == dict(backbone=dict(norm_cfg=dict(type='BN', eps=1e-3)), heads=[dict(norm_cfg=dict(type='BN'))])
    assert cfg.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel', broadcast_buffers=False, find_unused_parameters=True, device_ids=None)


def test_several_processes_on_a_cpu_keep_a_wrapper_of_the_config():
    cfg = Config(dict(launcher='pytorch', model=dict(), model_wrapper_cfg=dict(type='Own', broadcast_buffers=True)))
    assert adapt_to_cpu(cfg) == []
    assert cfg.model_wrapper_cfg == dict(
        type='Own', broadcast_buffers=True, find_unused_parameters=False, device_ids=None)


def test_options_of_hooks_reach_those_of_the_config_or_add_them():
    hooks = [dict(type='hybrid_mm.HangGuardHook', timeout=5), dict(type='EMAHook')]
    cfg = trained('--hang-timeout', '30', '--resume-schedule', 'old', custom_hooks=hooks)
    assert cfg.custom_hooks == [dict(type='hybrid_mm.HangGuardHook', timeout=30), dict(type='EMAHook'),
                                dict(type='hybrid_mm.ResumeScheduleHook', schedule='old')]
    assert 'custom_hooks' not in trained()
    for kind in (HangGuardHook, 'hybrid_mm.engine.hooks.hang_guard.HangGuardHook'):  # as a config in pure Python has it
        assert trained('--hang-timeout', '0', custom_hooks=[dict(type=kind)]).custom_hooks == [dict(type=kind, timeout=0)]
