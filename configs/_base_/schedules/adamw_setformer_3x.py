# 36 epochs of AdamW, as NAT's detectors
_base_ = ['adamw_setformer_1x.py']

param_scheduler = [
    _base_.param_scheduler[0],  # warm-up
    dict(type='MultiStepLR', begin=0, end=36, by_epoch=True, milestones=[27, 33], gamma=0.1)
]
train_cfg = dict(max_epochs=36)
