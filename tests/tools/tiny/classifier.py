# The ImageNet recipe on a few pictures in two folders, one a class. PICTURES is the folder of the data.
# No randomness and no statistics over a batch, so that the number of processes makes no difference.
_base_ = [__import__('hybrid_mm').config_path('imagenet_transcnn_s.py'), 'base.py']

model = dict(
    backbone=dict(_base_.tiny_backbone, drop_path_rate=0., norm_cfg=dict(type='GN', num_groups=1)),
    neck=dict(dropout=0.),
    head=dict(in_channels=_base_.tiny_channels[-1], num_classes=2),
    train_cfg=None)
data_preprocessor = dict(num_classes=2)

dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root='{{$PICTURES:data/pictures}}',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')])
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=False),
    dataset=dataset)
val_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, dataset=dataset)
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
# steps proportional to the gradient: Adam would make a full step of a rounding error
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.05, weight_decay=0.05))
param_scheduler = []
train_cfg = dict(max_epochs=1)
randomness = dict(seed=0)
default_hooks = _base_.probes
