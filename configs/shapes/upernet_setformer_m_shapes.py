# UperNet with SeTformer mini on the synthetic shapes, from random weights: minutes on two CPU cores
_base_ = ['../_base_/backbones/setformer_m.py', '../_base_/upernet_shapes.py']
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(references=dict(decay_mult=0.))))
