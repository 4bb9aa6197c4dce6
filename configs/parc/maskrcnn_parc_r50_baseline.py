# Mask R-CNN with ResNet-50, COCO 1x: the baseline of ParC-ResNet50 under the same recipe
_base_ = ['maskrcnn_parc_r50.py']
model = dict(
    backbone=dict(
        insert_locations=(), init_cfg=dict(checkpoint='work_dirs/imagenet_parc_r50_baseline/epoch_300.pth')))
