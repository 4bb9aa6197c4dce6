# 160k iterations of AdamW, as Swin's and NAT's UperNet, without weight decay of references
_base_ = ['adamw_160k.py']
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(references=dict(decay_mult=0.))))
