# UperNet with ResNet-50 on CamVid, the short recipe for two CPU cores
_base_ = ['../_base_/backbones/r50.py', '../_base_/upernet_camvid.py']
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
