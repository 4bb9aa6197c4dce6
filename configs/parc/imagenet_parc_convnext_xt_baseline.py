# ConvNeXt-XT on ImageNet-1K: the baseline of ParC-ConvNeXt-XT under the same recipe
_base_ = ['imagenet_parc_convnext_xt.py']
model = dict(backbone=dict(insert_locations=()))
