# Mask R-CNN with SeTformer base, COCO 3x: 36 epochs at several scales with crops
_base_ = [
    '../_base_/backbones/setformer_b.py', '../_base_/models/maskrcnn_fpn.py', '../_base_/datasets/coco_instance_multi_scale.py',
    '../_base_/schedules/adamw_setformer_3x.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.pretrained),
    neck=dict(in_channels=_base_.channels))
