# The recipe of upernet_camvid.py for one GPU: more steps, more crops a step, more scales, and an average of the weights
_base_ = ['upernet_camvid.py']
max_iters = 20000  # 870 epochs
sizes = dict(RandomResize=dict(ratio_range=(0.5, 2.0)))
train_pipeline = [dict(step, **sizes.get(step.type, {})) for step in _base_.train_pipeline]

train_dataloader = dict(batch_size=16, num_workers=8, persistent_workers=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=2, persistent_workers=True)
test_dataloader = dict(num_workers=2, persistent_workers=True)
param_scheduler = [dict(_base_.param_scheduler[0], end=500), dict(_base_.param_scheduler[1], end=max_iters)]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters // 10)
default_hooks = dict(checkpoint=dict(interval=max_iters // 10, save_best='mIoU'))
# its BatchNorm takes the statistics of the last weights: averaged ones lag behind
custom_hooks = [*_base_.custom_hooks, dict(type='EMAHook', momentum=0.001, begin_iter=500)]
