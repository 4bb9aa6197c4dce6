# 12 epochs of AdamW without weight decay of norms, biases and position embeddings
_base_ = ['adamw_1x.py']
optim_wrapper = dict(paramwise_cfg=dict(bias_decay_mult=0., custom_keys=dict(pos_embed=dict(decay_mult=0.))))
