# UperNet with GLiT tiny on CamVid, the short recipe for two CPU cores
_base_ = ['../_base_/backbones/glit_t.py', '../_base_/upernet_camvid.py']
model = dict(
    backbone=dict(_base_.backbone, global_blocks='all', drop_path_rate=_base_.drop_path_rate),
    neck=_base_.pyramid,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
