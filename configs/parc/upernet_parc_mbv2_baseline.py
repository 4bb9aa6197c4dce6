# UperNet with MobileNetV2, ADE20K: the baseline of ParC-MobileNetV2 under the same recipe
_base_ = ['upernet_parc_mbv2.py']
model = dict(
    backbone=dict(
        insert_locations=(), init_cfg=dict(checkpoint='work_dirs/imagenet_parc_mbv2_baseline/epoch_300.pth')))
