# UperNet with TransCNN small on the synthetic shapes, from random weights: minutes on two CPU cores
_base_ = ['../_base_/backbones/transcnn_s.py', '../_base_/upernet_shapes.py']
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
