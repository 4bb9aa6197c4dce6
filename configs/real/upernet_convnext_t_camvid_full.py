# UperNet with ConvNeXt-T on CamVid, the full recipe for one GPU
_base_ = ['../_base_/backbones/convnext_t.py', '../_base_/upernet_camvid_full.py']
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path_rate),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
