# Cascade Mask R-CNN with ParC-Net-S, COCO 3x: 36 epochs at several scales with crops
_base_ = [
    '../_base_/backbones/parcnet_s.py', '../_base_/models/cascade_maskrcnn_fpn.py',
    '../_base_/datasets/coco_instance_multi_scale.py', '../_base_/schedules/adamw_parc_3x.py', '../_base_/runtime_det.py'
]
model = dict(
    data_preprocessor=_base_.pixels,
    backbone=dict(_base_.backbone, init_cfg=_base_.pretrained),
    neck=dict(in_channels=_base_.channels))
