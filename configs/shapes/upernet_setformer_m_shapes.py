# UperNet with SeTformer mini on the synthetic shapes, from random weights: minutes on two CPU cores
_base_ = ['../_base_/backbones/setformer_m_shapes.py', '../_base_/upernet_shapes.py']
# objects cover a quarter of the pixels: with equal weights hundreds of steps pass before any is found
class_weight = [0.25, 1., 1., 1., 1.]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels, loss_decode=dict(class_weight=class_weight)),
    auxiliary_head=dict(in_channels=_base_.channels[2], loss_decode=dict(class_weight=class_weight)))
optim_wrapper = dict(optimizer=dict(lr=1.2e-3), paramwise_cfg=dict(custom_keys=dict(references=dict(decay_mult=0.))))
