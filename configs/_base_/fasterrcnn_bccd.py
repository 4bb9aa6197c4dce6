# Faster R-CNN with small heads on BCCD, from random weights; a config adds the backbone and the neck's in_channels
_base_ = ['models/maskrcnn_fpn.py', 'datasets/bccd.py', 'schedules/adamw_few_pictures.py', 'runtime_det.py']
channels_of_heads = 64
num_classes = len(_base_.classes)

model = dict(
    type='FasterRCNN',
    data_preprocessor=dict(pad_mask=False),
    neck=dict(out_channels=channels_of_heads, norm_cfg=dict(type='BN')),
    rpn_head=dict(
        in_channels=channels_of_heads,
        feat_channels=channels_of_heads,
        # cells are about as wide as high: three sizes an octave, from 16 to 400 pixels
        anchor_generator=dict(scales=[4, 5.04, 6.35], ratios=[1.0])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels_of_heads, finest_scale=28),
        bbox_head=dict(in_channels=channels_of_heads, fc_out_channels=256, num_classes=num_classes, reg_class_agnostic=True),
        mask_roi_extractor=None,
        mask_head=None),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=200)))
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(by_epoch=False, interval=500, save_best=None))
log_processor = dict(by_epoch=False)
