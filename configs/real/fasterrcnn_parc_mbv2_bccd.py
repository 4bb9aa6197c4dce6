# Faster R-CNN with ParC-MobileNetV2 on BCCD
_base_ = ['../_base_/backbones/parc_mbv2.py', '../_base_/fasterrcnn_bccd.py']
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
