# ParC-ConvNeXt-T on ImageNet-1K at 224x224, 300 epochs from random weights
_base_ = [
    '../_base_/backbones/parc_convnext_t.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet_224_large_batch.py',
    '../_base_/schedules/adamw_parc_300e.py', '../_base_/runtime_cls_ema.py'
]
model = dict(
    backbone=dict(_base_.backbone, out_norm=False),  # the neck has the norm
    neck=dict(in_channels=_base_.channels[-1], norm_cfg=dict(type='LN', eps=1e-6), dropout=0.),
    head=dict(in_channels=_base_.channels[-1]))
