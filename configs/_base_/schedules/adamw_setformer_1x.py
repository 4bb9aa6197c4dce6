# 12 epochs of the recipe that NAT's detectors, with which SeTformer is compared, train by for 36. References are used at unit
# length, so weight decay would change nothing but their learning rate.
_base_ = ['adamw_1x.py']
optim_wrapper = dict(type='AmpOptimWrapper', paramwise_cfg=dict(custom_keys=dict(references=dict(decay_mult=0.))))
