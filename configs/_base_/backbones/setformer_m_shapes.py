# SeTformer mini for a few hundred steps from random weights: BatchNorm, larger weights and damped residual branches at the
# start learn faster there than the LayerNorm and the small weights that suit hundreds of epochs
_base_ = ['setformer_m.py']
backbone = dict(
    drop_path_rate=0.,
    norm_cfg=dict(type='BN'),
    layer_scale_init_value=0.1,
    init_cfg=[dict(type='Xavier', layer=['Conv2d', 'Linear'], distribution='normal')])
