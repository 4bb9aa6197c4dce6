# Mask R-CNN with MobileNetV2, COCO 1x: the baseline of ParC-MobileNetV2 under the same recipe
_base_ = ['maskrcnn_parc_mbv2.py']
model = dict(
    backbone=dict(
        insert_locations=(), init_cfg=dict(checkpoint='work_dirs/imagenet_parc_mbv2_baseline/epoch_300.pth')))
