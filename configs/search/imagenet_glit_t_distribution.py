# First stage of GLiT's search on ImageNet-1K: the distribution of attention and convolution, details fixed. The 50,000 images
# on which candidates are evaluated are held out of the training images: python tools/search/hold_out.py data/imagenet
_base_ = ['../glit/imagenet_glit_t.py']
max_epochs = 100
model = dict(
    backbone=dict(
        type='hybrid_mm.GLiTSupernet',
        arch=dict(
            _delete_=True,
            embed_dims=192,
            num_heads=3,
            space=dict(options='paper', details=dict(K=31, E=2, d_k=1, d_z=4)))))
train_dataloader = dict(dataset=dict(ann_file='meta/search_train.txt'))
val_dataloader = dict(batch_size=200, dataset=dict(split='train', ann_file='meta/search_val.txt'))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5, end=max_epochs)
]
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
# no average of weights, of which each batch trains a part
custom_hooks = [dict(type='hybrid_mm.CheckSetupHook'), dict(type='hybrid_mm.NumericsGuardHook', on_fault='stop')]
find_unused_parameters = True
search = dict(
    limit_gmacs=1.475,  # GLiT-Tiny itself has 1.473
    # what is found trains as GLiT does
    retrain=dict(
        train_dataloader=_base_.train_dataloader,
        val_dataloader=_base_.val_dataloader,
        param_scheduler=_base_.param_scheduler,
        train_cfg=_base_.train_cfg,
        custom_hooks=_base_.custom_hooks))
