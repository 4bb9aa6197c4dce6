# Mask R-CNN with ParC-ConvNeXt-T, COCO 1x: 12 epochs at a single scale
_base_ = [
    '../_base_/backbones/parc_convnext_t.py', '../_base_/models/maskrcnn_fpn.py', '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/adamw_parc_1x_layer_decay.py', '../_base_/runtime_det.py'
]
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.4, init_cfg=_base_.pretrained),
    neck=dict(in_channels=_base_.channels))
