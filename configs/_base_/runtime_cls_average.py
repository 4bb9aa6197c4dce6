# with a moving average of the weights, BatchNorm's statistics included, beside the last ones, which are tested and saved
_base_ = ['runtime_cls.py']
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='hybrid_mm.WeightAverageHook', momentum=4e-5, update_buffers=True)  # a decay of 0.99996
]
