# Faster R-CNN with ParC-MobileNetV2 on BCCD, the full recipe for one GPU
_base_ = ['../_base_/backbones/parc_mbv2.py', '../_base_/fasterrcnn_bccd_full.py']
model = dict(
    backbone=dict(_base_.backbone, _delete_=True, drop_path_rate=_base_.drop_path_rate),
    neck=dict(in_channels=_base_.channels))
