# Mask R-CNN with GLiT tiny on the synthetic shapes, from random weights
_base_ = ['../_base_/backbones/glit_t.py', '../_base_/maskrcnn_shapes.py']
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.),
    neck=[_base_.pyramid, dict(_base_.model.neck, in_channels=_base_.channels)])
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.))))
