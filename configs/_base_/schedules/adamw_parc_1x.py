# 12 epochs of the recipe that ParC's authors train detectors with for 36
_base_ = ['adamw_1x.py']
optim_wrapper = dict(optimizer=dict(lr=2e-4), paramwise_cfg=dict(bias_decay_mult=0., flat_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    _base_.param_scheduler[1]  # steps
]
