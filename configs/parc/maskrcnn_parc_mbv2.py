# Mask R-CNN with ParC-MobileNetV2, COCO 1x: 12 epochs at a single scale
_base_ = [
    '../_base_/backbones/parc_mbv2.py', '../_base_/models/maskrcnn_fpn.py', '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_parc_1x.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, norm_eval=False, init_cfg=_base_.pretrained),
    neck=dict(in_channels=_base_.channels))
