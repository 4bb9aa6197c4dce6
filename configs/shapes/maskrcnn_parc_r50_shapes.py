# Mask R-CNN with ParC-ResNet50 on the synthetic shapes, from random weights: minutes on two CPU cores
_base_ = ['../_base_/backbones/parc_r50.py', '../_base_/maskrcnn_shapes.py']
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
