# The name of hatnet/imagenet_hatnet_m.py from before configs had folders; it stays
_base_ = 'hatnet/imagenet_hatnet_m.py'
