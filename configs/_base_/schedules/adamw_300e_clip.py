# the larger half of the networks trains with clipped gradients
_base_ = ['adamw_300e.py']
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
