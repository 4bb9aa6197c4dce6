# Search of GLiT for segmentation of the synthetic shapes: one supernet with all options, from random weights, for any strategy
#   python tools/search/supernet_train.py configs/search/upernet_glit_shapes_search.py --work-dir work_dirs/supernet
#   python tools/search/search.py configs/search/upernet_glit_shapes_search.py --checkpoint work_dirs/supernet --processes 2
_base_ = ['../_base_/upernet_shapes.py']
embed_dims = 48
max_epochs = 20
model = dict(
    backbone=dict(
        type='hybrid_mm.GLiTSupernet',
        arch=dict(embed_dims=embed_dims, num_heads=3, space=dict(options='paper', num_blocks=8)),
        global_blocks='all'),
    neck=dict(type='hybrid_mm.TokenPyramid', in_channels=embed_dims),
    decode_head=dict(in_channels=[embed_dims] * 4, channels=32),
    auxiliary_head=dict(in_channels=embed_dims, channels=32))
optim_wrapper = dict(optimizer=dict(lr=1.2e-3), paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0.))))
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
find_unused_parameters = True
search = dict(
    image_size=(_base_.height, _base_.width),
    limit_gmacs=0.072,
    population=16,
    generations=6,
    parents=5,
    mutations=8,
    crossovers=6,
    mutation_rate=0.2,
    bn_batches=8,
    bn_batch_size=8,
    val_images=None,
    cache=True)
