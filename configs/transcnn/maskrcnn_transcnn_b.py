# Mask R-CNN with TransCNN base, COCO 1x: 12 epochs at a single scale
_base_ = [
    '../_base_/backbones/transcnn_b.py', '../_base_/models/maskrcnn_fpn.py', '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_1x.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.released),
    neck=dict(in_channels=_base_.channels))
