# with the moving average of the weights, which is tested and saved, and batches of changing size, as ParC-Net
_base_ = ['runtime_cls.py']
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='EMAHook', momentum=5e-4, update_buffers=True, priority='ABOVE_NORMAL'),
    dict(type='hybrid_mm.VariableSizeHook', sizes=(160, 192, 256, 288, 320))
]
