# Cascade Mask R-CNN with ParC-ResNet50, COCO 3x: 36 epochs at several scales with crops
_base_ = [
    '../_base_/backbones/parc_r50.py', '../_base_/models/cascade_maskrcnn_fpn.py',
    '../_base_/datasets/coco_instance_multi_scale.py', '../_base_/schedules/adamw_parc_3x.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, frozen_stages=1, init_cfg=_base_.pretrained),
    neck=dict(in_channels=_base_.channels))
