# ResNet-50 on ImageNet-1K: the baseline of ParC-ResNet50 under the same recipe
_base_ = ['imagenet_parc_r50.py']
model = dict(backbone=dict(insert_locations=()))
