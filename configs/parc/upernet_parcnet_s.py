# UperNet with ParC-Net-S, ADE20K, 160k iterations
_base_ = [
    '../_base_/backbones/parcnet_s.py', '../_base_/models/upernet_slide.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_parc_160k.py', '../_base_/runtime_seg.py'
]
model = dict(
    data_preprocessor=_base_.pixels,
    backbone=dict(_base_.backbone, norm_cfg=_base_.norm_cfg, init_cfg=_base_.pretrained),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
