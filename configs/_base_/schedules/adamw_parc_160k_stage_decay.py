# adamw_parc_160k.py with learning rates that fall from the head to the stem, as ConvNeXt's: a stage a layer
_base_ = ['adamw_parc_160k.py']
optim_wrapper = dict(
    constructor='hybrid_mm.LayerDecayOptimizerConstructor',
    paramwise_cfg=dict(decay_rate=0.9, decay_type='stage_wise', num_layers=6))
