"""What configs of several families have in common: schedules, batch norm, and dropout before the classifier."""
import torch
from configs.shipped import CONVNEXTS, GLITS, LEAVES, PARC, REAL, RELEASES, build, for_each, load, registered
from mmengine.registry import HOOKS
from torch.nn.modules.batchnorm import _BatchNorm

from hybrid_mm.commands.config_names import check_arguments
from hybrid_mm.names import check_keys

# ---- models ----


@for_each(name=['maskrcnn_transcnn_s.py', 'maskrcnn_transcnn_s_3x.py', 'maskrcnn_glit_t.py', 'maskrcnn_glit_t_3x.py'])
def test_batch_norm_of_a_detector_keeps_its_statistics(name):
    backbone = build(name).train().backbone
    norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]

    assert norms and not any(norm.training for norm in norms)


@for_each(name=['upernet_transcnn_s.py', 'upernet_glit_t.py'])
def test_batch_norm_of_a_segmentor_is_synchronised(name):
    norms = [module for module in build(name).backbone.modules() if isinstance(module, _BatchNorm)]

    assert norms and all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)


@for_each(network=[*RELEASES, *PARC])
def test_pooled_features_are_dropped_as_in_the_release(network):
    dropout = load(f'imagenet_{network}.py').model.neck.dropout

    assert dropout == (0. if network in ('parc_r50', *CONVNEXTS) else 0.2)


# ---- recipes ----


@for_each(network=[*RELEASES, *GLITS])
def test_1x_trains_12_epochs_at_a_single_scale(network):
    cfg = load(f'maskrcnn_{network}.py')
    resizes = [step for step in cfg.train_dataloader.dataset.pipeline if 'Resize' in step.type]

    assert resizes == [dict(type='Resize', scale=(1333, 800), keep_ratio=True)]
    assert cfg.train_cfg.max_epochs == 12
    assert cfg.param_scheduler[1].milestones == [8, 11]


@for_each(network=[*RELEASES, *GLITS])
def test_3x_trains_36_epochs_at_several_scales_with_crops(network):
    cfg = load(f'maskrcnn_{network}_3x.py')
    choice, = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomChoice']
    whole, cropped = choice.transforms

    assert [step.type for step in whole] == ['RandomChoiceResize']
    assert whole[0].scales == [(side, 1333) for side in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]
    assert [step.type for step in cropped] == ['RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize']
    assert cropped[1].crop_size == (384, 600)
    assert cfg.train_cfg.max_epochs == 36
    assert cfg.param_scheduler[1].milestones == [27, 33]


@for_each(network=[*RELEASES, *GLITS])
def test_segmentor_trains_160k_iterations_on_512_pixels(network):
    cfg = load(f'upernet_{network}.py')
    crop, = [step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop']

    assert crop.crop_size == cfg.model.data_preprocessor.size == (512, 512)
    assert cfg.train_cfg.max_iters == cfg.param_scheduler[1].end == 160000
    assert cfg.model.test_cfg.mode == 'whole'


# ---- checkpoints ----


@for_each(name=LEAVES)
def test_starting_weights_are_checked_before_they_are_loaded(name):
    """A start by mmengine's Pretrained would go on from nearly random weights where the file is of another network."""
    starts = load(name).model.backbone.get('init_cfg') or []
    for start in starts if isinstance(starts, list) else [starts]:
        assert start.type == 'hybrid_mm.Released' if 'checkpoint' in start else start.type == 'Xavier'


@for_each(name=[name for name in LEAVES if name not in REAL])  # whose last weights count
def test_last_checkpoints_are_kept_and_the_best_one_by_the_metric_of_the_task(name):
    cfg = load(name)
    hook = registered(HOOKS, cfg.default_scope, cfg.default_hooks.checkpoint.type)(
        **{key: value for key, value in cfg.default_hooks.checkpoint.items() if key != 'type'})
    metric, evaluator = cfg.val_evaluator.get('metric'), cfg.val_evaluator.get('iou_metrics')

    assert 2 <= hook.max_keep_ckpts <= 5 and hook.save_last and hook.rules == ['greater']
    assert hook.save_best == [dict(mmdet='coco/bbox_mAP', mmseg='mIoU', mmpretrain='accuracy/top1')[cfg.default_scope]]
    assert 'bbox' in metric if cfg.default_scope == 'mmdet' else evaluator == ['mIoU'] or 1 in cfg.val_evaluator.topk
    assert hook.by_epoch == (cfg.train_cfg.get('type') != 'IterBasedTrainLoop')


@for_each(name=LEAVES)
def test_check_of_names_finds_nothing(name):
    check_keys(load(name))
    check_arguments(load(name))
