# Faster R-CNN with TransCNN small on BCCD, the short recipe for two CPU cores
_base_ = ['../_base_/backbones/transcnn_s.py', '../_base_/fasterrcnn_bccd.py']
model = dict(
    backbone=dict(_base_.backbone, _delete_=True, drop_path_rate=_base_.drop_path_rate),
    neck=dict(in_channels=_base_.channels))
