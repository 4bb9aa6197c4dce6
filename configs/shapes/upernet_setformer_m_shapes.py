# UperNet with SeTformer mini on the synthetic shapes, from random weights on a CPU
_base_ = ['../_base_/backbones/setformer_m_shapes.py', '../_base_/upernet_shapes.py']
max_epochs = 15
# objects cover a quarter of the pixels: without Dice hundreds of steps pass before any is found
losses = [dict(type='CrossEntropyLoss'), dict(type='DiceLoss')]
weaker_losses = [dict(type='CrossEntropyLoss', loss_weight=0.4), dict(type='DiceLoss', loss_weight=0.4)]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels, channels=64, loss_decode=losses),
    auxiliary_head=dict(in_channels=_base_.channels[2], loss_decode=weaker_losses))
optim_wrapper = dict(optimizer=dict(lr=2.5e-3), paramwise_cfg=dict(custom_keys=dict(references=dict(decay_mult=0.))))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
