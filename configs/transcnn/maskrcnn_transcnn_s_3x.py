# Mask R-CNN with TransCNN small, COCO 3x: 36 epochs at several scales with crops
_base_ = [
    '../_base_/backbones/transcnn_s.py', '../_base_/models/maskrcnn_fpn.py', '../_base_/datasets/coco_instance_multi_scale.py',
    '../_base_/schedules/adamw_3x.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.released),
    neck=dict(in_channels=_base_.channels))
