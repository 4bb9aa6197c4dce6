# Faster R-CNN with ParC-ConvNeXt-XT on BCCD, the short recipe for two CPU cores
_base_ = ['../_base_/backbones/parc_convnext_xt.py', '../_base_/fasterrcnn_bccd.py']
model = dict(
    backbone=dict(_base_.backbone, _delete_=True, drop_path_rate=_base_.drop_path_rate),
    neck=dict(in_channels=_base_.channels))
