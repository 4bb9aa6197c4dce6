# Second stage of GLiT's search on ImageNet-1K: the details of each block, for the distribution that the authors found. Give
# that of your own first stage with --cfg-options model.backbone.arch.space.distribution=3,0,1,..., in training and search.
_base_ = ['imagenet_glit_t_distribution.py']
distribution = [3, 0, 1, 3, 0, 1, 3, 1, 0, 3, 0, 3]
model = dict(backbone=dict(arch=dict(space=dict(_delete_=True, options='paper', distribution=distribution))))
