# Mask R-CNN with ResNet-50 on the synthetic shapes: the baseline of ParC-ResNet50 under the same recipe
_base_ = ['maskrcnn_parc_r50_shapes.py']
model = dict(backbone=dict(insert_locations=()))
