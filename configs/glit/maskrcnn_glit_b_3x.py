# Mask R-CNN with GLiT base, COCO 3x: 36 epochs at several scales with crops
_base_ = [
    '../_base_/backbones/glit_b.py', '../_base_/models/maskrcnn_fpn.py', '../_base_/datasets/coco_instance_multi_scale.py',
    '../_base_/schedules/adamw_glit_3x.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.pretrained),
    neck=[_base_.pyramid, dict(_base_.model.neck, in_channels=_base_.channels)])
