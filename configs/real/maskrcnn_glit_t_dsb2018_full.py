# Mask R-CNN with GLiT tiny on Data Science Bowl 2018, the full recipe for one GPU
_base_ = ['../_base_/backbones/glit_t.py', '../_base_/maskrcnn_dsb2018_full.py']
model = dict(
    backbone=dict(_base_.backbone, _delete_=True, drop_path_rate=_base_.drop_path_rate),
    neck=[_base_.pyramid, dict(_base_.model.neck, in_channels=_base_.channels)])
