# Mask R-CNN with small heads on the synthetic shapes, from random weights; a config adds the backbone and the neck's
# in_channels
_base_ = [
    'models/maskrcnn_fpn.py', 'datasets/shapes_instance.py', 'schedules/adamw_shapes.py', 'runtime_det.py'
]
max_epochs = 5
channels_of_heads = 64
num_classes = len(_base_.shapes_classes)

model = dict(
    # a norm on each output and statistics of its own, as nothing is pre-trained
    backbone=dict(out_norm=True, norm_eval=False),
    neck=dict(out_channels=channels_of_heads, norm_cfg=dict(type='BN')),
    rpn_head=dict(
        in_channels=channels_of_heads,
        feat_channels=channels_of_heads,
        # The pictures are small, and their objects about as wide as high: three sizes an octave, from 16 to 400 pixels.
        # With the usual three aspect ratios in place of sizes the first proposals are too loose to tell shapes apart.
        anchor_generator=dict(scales=[4, 5.04, 6.35], ratios=[1.0])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels_of_heads, finest_scale=28),
        bbox_head=dict(
            in_channels=channels_of_heads, fc_out_channels=256, num_classes=num_classes, reg_class_agnostic=True),
        mask_roi_extractor=dict(out_channels=channels_of_heads),
        mask_head=dict(
            num_convs=2,
            in_channels=channels_of_heads,
            conv_out_channels=channels_of_heads,
            num_classes=num_classes)),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))

train_dataloader = dict(batch_size=2)  # many small steps: there are minutes, not hours
auto_scale_lr = dict(base_batch_size=2)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(logger=dict(interval=10))
custom_hooks = [*_base_.custom_hooks, dict(type='hybrid_mm.ProgressBarHook')]
