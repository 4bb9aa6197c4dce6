# UperNet with GLiT tiny on the synthetic shapes, from random weights, attention over the whole map
_base_ = ['../_base_/backbones/glit_t.py', '../_base_/upernet_shapes.py']
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0., global_blocks='all'),
    neck=_base_.pyramid,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.))))
