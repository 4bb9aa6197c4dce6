# Cascade Mask R-CNN with ResNet-50, COCO 3x: the baseline of ParC-ResNet50 under the same recipe
_base_ = ['cascade_maskrcnn_parc_r50_3x.py']
model = dict(
    backbone=dict(
        insert_locations=(), init_cfg=dict(checkpoint='work_dirs/imagenet_parc_r50_baseline/epoch_300.pth')))
