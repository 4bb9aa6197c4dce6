# ImageNet classifier with Mixup and CutMix; a config adds the backbone and the head's in_channels.
# Most releases drop 0.2 of the pooled features in training; a config of another sets the neck's dropout.
model = dict(
    type='ImageClassifier',
    backbone=dict(out_indices=(3, )),
    neck=dict(type='hybrid_mm.PooledVector', dropout=0.2),
    head=dict(
        type='LinearClsHead',
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.)),
    train_cfg=dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]))
