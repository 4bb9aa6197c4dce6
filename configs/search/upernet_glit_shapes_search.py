# Search of GLiT for segmentation of the synthetic shapes: one supernet with all options, from random weights, for any strategy
#   python tools/search/supernet_train.py configs/search/upernet_glit_shapes_search.py --work-dir work_dirs/supernet
#   python tools/search/search.py configs/search/upernet_glit_shapes_search.py --checkpoint work_dirs/supernet --processes 2
# Pictures are enlarged twice, as a patch of 16 pixels holds too much of a shape, and crops of the old size train the network.
_base_ = ['../_base_/upernet_shapes.py']
embed_dims = 48
max_epochs = 20
size = (2 * _base_.width, 2 * _base_.height)
# objects cover a quarter of the pixels: without Dice hundreds of steps pass before any is found
losses = [dict(type='CrossEntropyLoss'), dict(type='DiceLoss')]
# with the usual std of 0.01 all classes look alike at first, and some stay so for long
classifier = dict(type='Normal', std=0.2, override=dict(name='conv_seg'))
weaker_losses = [dict(type='CrossEntropyLoss', loss_weight=0.4), dict(type='DiceLoss', loss_weight=0.4)]
model = dict(
    backbone=dict(
        type='hybrid_mm.GLiTSupernet',
        arch=dict(embed_dims=embed_dims, num_heads=3, space=dict(options='paper', num_blocks=8)),
        global_blocks='all',
        init_cfg=[dict(type='Xavier', layer=['Conv1d', 'Conv2d', 'Linear'], distribution='normal')]),
    neck=dict(type='hybrid_mm.TokenPyramid', in_channels=embed_dims),
    decode_head=dict(in_channels=[embed_dims] * 4, channels=32, loss_decode=losses, init_cfg=classifier),
    auxiliary_head=dict(in_channels=embed_dims, channels=32, loss_decode=weaker_losses, init_cfg=classifier))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='RandomCrop', crop_size=(_base_.height, _base_.width)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=size, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=2.4e-3), paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.))))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
find_unused_parameters = True
search = dict(
    image_size=size[::-1],
    limit_gmacs=0.42,
    population=12,
    generations=12,
    parents=4,
    mutations=6,
    crossovers=4,
    mutation_rate=0.2,
    bn_batches=8,
    bn_batch_size=8,
    val_images=32,
    cache=True)
