# with the moving average of the weights, which is tested and saved; the authors average BatchNorm's statistics too
_base_ = ['runtime_cls.py']
custom_hooks = [
    *_base_.custom_hooks,
    # one update in two batches: two make a step of the optimizer
    dict(type='EMAHook', momentum=1e-4, interval=2, update_buffers=True, priority='ABOVE_NORMAL')
]
