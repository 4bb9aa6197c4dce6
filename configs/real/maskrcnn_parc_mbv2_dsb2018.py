# Mask R-CNN with ParC-MobileNetV2 on Data Science Bowl 2018
_base_ = ['../_base_/backbones/parc_mbv2.py', '../_base_/maskrcnn_dsb2018.py']
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
