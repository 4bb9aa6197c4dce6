# The synthetic shapes as a segmentation, in ADE20K's layout.
_base_ = ['ade20k.py', 'shapes.py']

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]

# MMSegmentation's ADE20KDataset takes ADE20K's own classes only
shapes_semantic = dict(
    type='BaseSegDataset',
    data_root='data/shapes/ade/ADEChallengeData2016',
    metainfo=dict(classes=('background', *_base_.shapes_classes)),
    reduce_zero_label=True)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='DefaultSampler'),
    dataset=dict(shapes_semantic, pipeline=train_pipeline))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(shapes_semantic, pipeline=test_pipeline))
test_dataloader = val_dataloader
