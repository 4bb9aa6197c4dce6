# Cascade Mask R-CNN with ConvNeXt-XT, COCO 3x: the baseline of ParC-ConvNeXt-XT under the same recipe
_base_ = ['cascade_maskrcnn_parc_convnext_xt_3x.py']
model = dict(
    backbone=dict(
        insert_locations=(), init_cfg=dict(checkpoint='work_dirs/imagenet_parc_convnext_xt_baseline/epoch_300.pth')))
