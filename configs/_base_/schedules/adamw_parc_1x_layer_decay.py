# adamw_parc_1x.py with learning rates that fall from the head to the stem, as ConvNeXt's: three blocks a layer
_base_ = ['adamw_parc_1x.py']
optim_wrapper = dict(
    constructor='hybrid_mm.LayerDecayOptimizerConstructor',
    paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=6))
