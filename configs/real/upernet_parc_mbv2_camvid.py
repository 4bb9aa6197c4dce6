# UperNet with ParC-MobileNetV2 on CamVid
_base_ = ['../_base_/backbones/parc_mbv2.py', '../_base_/upernet_camvid.py']
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
