# Data Science Bowl 2018: nuclei in 535 microscope pictures for training and 129 for validation, 256 to 1388 pixels wide, up to
# 375 nuclei in one; docs/real_pictures.md says where it is from.
_base_ = ['few_instances.py']
data_root = 'data/dsb2018/'
classes = ('nucleus', )
crop_size = (256, 256)
test_scale = 1.5  # half of the nuclei are below 20 pixels
max_per_img = 500

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    # cut out before it is resized: masks of hundreds of nuclei are costly at full size
    dict(type='RandomCrop', crop_size=(128, 256), crop_type='absolute_range', recompute_bbox=True),
    dict(type='Resize', scale=crop_size, keep_ratio=True),
    dict(type='RandomFlip', prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PhotoMetricDistortion'),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(2, 2), keep_empty=False),
    dict(type='PackDetInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale_factor=test_scale, keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
]

data = dict(data_root=data_root, metainfo=dict(classes=classes))
train_dataloader = dict(dataset=dict(data, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    type='hybrid_mm.CocoMetric', proposal_nums=(1, 10, max_per_img), ann_file=data_root + 'annotations/instances_val.json')
test_evaluator = val_evaluator
