# UperNet with ParC-ResNet50, ADE20K, 160k iterations
_base_ = [
    '../_base_/backbones/parc_r50.py', '../_base_/models/upernet_slide.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_parc_160k.py', '../_base_/runtime_seg.py'
]
model = dict(
    backbone=dict(_base_.backbone, frozen_stages=1, norm_eval=True, init_cfg=_base_.pretrained),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
