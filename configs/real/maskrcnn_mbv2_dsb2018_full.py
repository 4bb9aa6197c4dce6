# Mask R-CNN with MobileNetV2 on Data Science Bowl 2018, the full recipe for one GPU
_base_ = ['../_base_/backbones/mbv2.py', '../_base_/maskrcnn_dsb2018_full.py']
model = dict(
    backbone=dict(_base_.backbone, _delete_=True),
    neck=dict(in_channels=_base_.channels))
