# UperNet with ParC-ConvNeXt-XT, ADE20K, 160k iterations
_base_ = [
    '../_base_/backbones/parc_convnext_xt.py', '../_base_/models/upernet_slide.py', '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_parc_160k_stage_decay.py', '../_base_/runtime_seg.py'
]
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.4, init_cfg=_base_.pretrained),
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]))
