# SeTformer base on ImageNet-1K at 224x224, 300 epochs from random weights
_base_ = [
    '../_base_/backbones/setformer_b.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet_224_no_repeats.py',
    '../_base_/schedules/adamw_setformer_300e.py', '../_base_/runtime_cls.py'
]
model = dict(backbone=_base_.backbone, neck=dict(dropout=0.), head=dict(in_channels=_base_.channels[-1]))
