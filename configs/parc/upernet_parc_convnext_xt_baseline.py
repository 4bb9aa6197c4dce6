# UperNet with ConvNeXt-XT, ADE20K: the baseline of ParC-ConvNeXt-XT under the same recipe
_base_ = ['upernet_parc_convnext_xt.py']
model = dict(
    backbone=dict(
        insert_locations=(), init_cfg=dict(checkpoint='work_dirs/imagenet_parc_convnext_xt_baseline/epoch_300.pth')))
