# 160k iterations of AdamW without weight decay of norms and position embeddings
_base_ = ['adamw_160k.py']
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.))))
