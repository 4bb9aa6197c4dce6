# ParC-MobileNetV2 on ImageNet-1K at 224x224, 300 epochs from random weights
_base_ = [
    '../_base_/backbones/parc_mbv2.py', '../_base_/models/classifier.py', '../_base_/datasets/imagenet_224_large_batch.py',
    '../_base_/schedules/adamw_parc_300e.py', '../_base_/runtime_cls_ema.py'
]
model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
