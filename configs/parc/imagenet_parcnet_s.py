# ParC-Net-S on ImageNet-1K at 160x160 to 320x320, 300 epochs from random weights
_base_ = [
    '../_base_/backbones/parcnet_s.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet_320_light.py',
    '../_base_/schedules/adamw_parcnet_300e.py', '../_base_/runtime_cls_ema_variable_size.py'
]
model = dict(
    backbone=dict(_base_.backbone, out_indices=(4, )),  # the last 1x1 convolution
    head=dict(in_channels=_base_.pooled_channels),
    train_cfg=None)  # without Mixup and CutMix
