# A search on a few pictures of shapes, in seconds. SHAPES is the folder of the data.
_base_ = [__import__('hybrid_mm').config_path('upernet_glit_shapes_search.py')]

options = [dict(G=[0, 1, 2, 3], K=[3, 9], E=[1, 2], d_k=[0.5, 1], d_z=[1, 2])]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(
        arch=dict(embed_dims=12, space=dict(options=options, num_blocks=4)), drop_path_rate=0.2),
    neck=dict(in_channels=12),
    decode_head=dict(in_channels=[12] * 4, channels=8),
    auxiliary_head=dict(in_channels=12, channels=8))

data_root = '{{$SHAPES:data/shapes}}/ade/ADEChallengeData2016'
read = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
train_pipeline = [*read, dict(type='RandomFlip', prob=0.5), dict(type='PackSegInputs')]
test_pipeline = [*read, dict(type='PackSegInputs')]
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
custom_imports = dict(imports=['training_probes'], allow_failed_imports=False)
default_hooks = dict(losses=dict(type='RecordLosses'))
train_cfg = dict(max_epochs=2, val_interval=2)
search = dict(
    image_size=64,
    limit_gmacs=0.0003,
    details=dict(K=3, E=2, d_k=1, d_z=1),
    population=4,
    generations=4,
    parents=2,
    mutations=2,
    crossovers=2,
    bn_batches=2,
    bn_batch_size=4,
    val_images=3,
    top=2,
    retrain=dict(train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)))
