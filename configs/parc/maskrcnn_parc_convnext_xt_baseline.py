# Mask R-CNN with ConvNeXt-XT, COCO 1x: the baseline of ParC-ConvNeXt-XT under the same recipe
_base_ = ['maskrcnn_parc_convnext_xt.py']
model = dict(
    backbone=dict(
        insert_locations=(), init_cfg=dict(checkpoint='work_dirs/imagenet_parc_convnext_xt_baseline/epoch_300.pth')))
