# UperNet on a few pictures of shapes, iteration-based as for ADE20K. SHAPES is the folder of the data.
_base_ = [__import__('hybrid_mm').config_path('upernet_transcnn_s_shapes.py'), 'base.py']

model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(_base_.tiny_backbone, drop_path_rate=0.2),
    decode_head=dict(in_channels=_base_.tiny_channels, channels=16),
    auxiliary_head=dict(in_channels=_base_.tiny_channels[2], channels=16))

data_root = '{{$SHAPES:data/shapes}}/ade/ADEChallengeData2016'
train_dataloader = dict(batch_size=2, sampler=dict(type='InfiniteSampler'), dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=6, val_interval=3)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=6)]
log_processor = dict(by_epoch=False)
default_hooks = dict(_base_.probes, checkpoint=dict(by_epoch=False, interval=2, max_keep_ckpts=-1))
