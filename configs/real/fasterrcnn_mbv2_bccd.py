# Faster R-CNN with MobileNetV2 on BCCD, the short recipe for two CPU cores
_base_ = ['../_base_/backbones/mbv2.py', '../_base_/fasterrcnn_bccd.py']
model = dict(
    backbone=dict(_base_.backbone, _delete_=True),
    neck=dict(in_channels=_base_.channels))
