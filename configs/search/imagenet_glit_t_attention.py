# The baseline of GLiT's search on ImageNet-1K: attention alone, widths of attention and of the MLP to choose ('NLP-NAS')
_base_ = ['imagenet_glit_t_distribution.py']
model = dict(backbone=dict(arch=dict(space=dict(_delete_=True, options='attention'))))
search = dict(strategy='flat')
