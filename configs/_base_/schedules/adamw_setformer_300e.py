# 300 epochs of AdamW, as Swin, without weight decay of references
_base_ = ['adamw_300e.py']
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(references=dict(decay_mult=0.))), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=5e-6, by_epoch=True, begin=20, end=300)
]
