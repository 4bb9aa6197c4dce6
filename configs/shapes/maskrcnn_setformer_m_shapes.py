# Mask R-CNN with SeTformer mini on the synthetic shapes, from random weights: minutes on two CPU cores
_base_ = ['../_base_/backbones/setformer_m_shapes.py', '../_base_/maskrcnn_shapes.py']
max_epochs = 12
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
optim_wrapper = dict(optimizer=dict(lr=1.5e-3), paramwise_cfg=dict(custom_keys=dict(references=dict(decay_mult=0.))))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
