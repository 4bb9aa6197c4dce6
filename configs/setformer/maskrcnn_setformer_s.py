# Mask R-CNN with SeTformer small, COCO 1x: 12 epochs at a single scale
_base_ = [
    '../_base_/backbones/setformer_s.py', '../_base_/models/maskrcnn_fpn.py', '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_setformer_1x.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.35, init_cfg=_base_.pretrained),
    neck=dict(in_channels=_base_.channels))
