# MobileNetV2 on ImageNet-1K: the baseline of ParC-MobileNetV2 under the same recipe
_base_ = ['imagenet_parc_mbv2.py']
model = dict(backbone=dict(insert_locations=()))
