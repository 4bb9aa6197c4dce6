# UperNet with GLiT base, ADE20K, 160k iterations, attention over the whole map
_base_ = [
    '../_base_/backbones/glit_b.py', '../_base_/models/upernet.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_glit_160k.py', '../_base_/runtime_seg.py'
]
model = dict(
    backbone=dict(_base_.backbone, global_blocks='all', norm_cfg=_base_.norm_cfg, init_cfg=_base_.pretrained),
    neck=_base_.pyramid,
    decode_head=dict(in_channels=_base_.channels), auxiliary_head=dict(in_channels=_base_.channels[2]))
