# UperNet with ResNet-50, ADE20K: the baseline of ParC-ResNet50 under the same recipe
_base_ = ['upernet_parc_r50.py']
model = dict(
    backbone=dict(
        insert_locations=(), init_cfg=dict(checkpoint='work_dirs/imagenet_parc_r50_baseline/epoch_300.pth')))
