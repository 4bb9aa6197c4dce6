# 160k iterations of AdamW, as ParC's authors
_base_ = ['adamw_160k.py']
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05), paramwise_cfg=dict(bias_decay_mult=0., flat_decay_mult=0.))
