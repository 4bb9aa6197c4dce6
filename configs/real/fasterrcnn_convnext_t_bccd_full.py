# Faster R-CNN with ConvNeXt-T on BCCD, the full recipe for one GPU
_base_ = ['../_base_/backbones/convnext_t.py', '../_base_/fasterrcnn_bccd_full.py']
model = dict(
    backbone=dict(_base_.backbone, _delete_=True, drop_path_rate=_base_.drop_path_rate),
    neck=dict(in_channels=_base_.channels))
