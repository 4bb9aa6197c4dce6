# Mask R-CNN with GLiT base, COCO 1x: 12 epochs at a single scale
_base_ = [
    '../_base_/backbones/glit_b.py', '../_base_/models/maskrcnn_fpn.py', '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_glit_1x.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, init_cfg=_base_.pretrained),
    neck=[_base_.pyramid, dict(_base_.model.neck, in_channels=_base_.channels)])
