# 300 epochs of AdamW with clipped gradients and 10 more at the last learning rate, as GLiT's release
_base_ = ['adamw_300e_clip.py']
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.), cls_token=dict(decay_mult=0.))))
train_cfg = dict(max_epochs=310)
