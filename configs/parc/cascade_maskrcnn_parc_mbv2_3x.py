# Cascade Mask R-CNN with ParC-MobileNetV2, COCO 3x: 36 epochs at several scales with crops
_base_ = [
    '../_base_/backbones/parc_mbv2.py', '../_base_/models/cascade_maskrcnn_fpn.py',
    '../_base_/datasets/coco_instance_multi_scale.py', '../_base_/schedules/adamw_parc_3x.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, norm_eval=False, init_cfg=_base_.pretrained),
    neck=dict(in_channels=_base_.channels))
