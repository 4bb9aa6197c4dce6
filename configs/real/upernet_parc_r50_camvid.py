# UperNet with ParC-ResNet50 on CamVid, the short recipe for two CPU cores
_base_ = ['../_base_/backbones/parc_r50.py', '../_base_/upernet_camvid.py']
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=_base_.drop_path_rate),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
