# Faster R-CNN with ResNet-50 on BCCD, the short recipe for two CPU cores
_base_ = ['../_base_/backbones/r50.py', '../_base_/fasterrcnn_bccd.py']
model = dict(
    backbone=dict(_base_.backbone, _delete_=True),
    neck=dict(in_channels=_base_.channels))
