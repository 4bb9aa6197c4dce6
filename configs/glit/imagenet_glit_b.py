# GLiT base on ImageNet-1K at 224x224, 310 epochs from random weights
_base_ = [
    '../_base_/backbones/glit_b.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/adamw_glit_310e.py', '../_base_/runtime_cls_average.py'
]
model = dict(backbone=dict(_base_.backbone, mode='image'), neck=None, head=dict(in_channels=_base_.channels[-1]))
