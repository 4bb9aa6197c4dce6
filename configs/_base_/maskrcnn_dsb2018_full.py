# The recipe of maskrcnn_dsb2018.py for one GPU: more steps, more pictures a step, and an average of the weights
_base_ = ['maskrcnn_dsb2018.py']
max_iters = 10000

train_dataloader = dict(batch_size=16, num_workers=8, persistent_workers=True)
val_dataloader = dict(num_workers=2, persistent_workers=True)
test_dataloader = dict(num_workers=2, persistent_workers=True)
param_scheduler = [dict(_base_.param_scheduler[0], end=500), dict(_base_.param_scheduler[1], end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10, save_best='coco/segm_mAP'))
custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=0.001, begin_iter=500)]
