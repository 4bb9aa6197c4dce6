# Cascade Mask R-CNN with MobileNetV2, COCO 3x: the baseline of ParC-MobileNetV2 under the same recipe
_base_ = ['cascade_maskrcnn_parc_mbv2_3x.py']
model = dict(
    backbone=dict(
        insert_locations=(), init_cfg=dict(checkpoint='work_dirs/imagenet_parc_mbv2_baseline/epoch_300.pth')))
