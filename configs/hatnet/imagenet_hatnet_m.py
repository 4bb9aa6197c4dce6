# HAT-Net medium on ImageNet-1K at 224x224, 300 epochs from random weights
_base_ = [
    '../_base_/backbones/hatnet_m.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet_224.py',
    '../_base_/schedules/adamw_300e_clip.py', '../_base_/runtime_cls.py'
]
model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
