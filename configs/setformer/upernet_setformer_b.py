# UperNet with SeTformer base, ADE20K, 160k iterations
_base_ = [
    '../_base_/backbones/setformer_b.py', '../_base_/models/upernet.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_setformer_160k.py', '../_base_/runtime_seg.py'
]
model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.pretrained),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
