# The name of hatnet/imagenet_hatnet_s.py from before configs had folders; it stays
_base_ = 'hatnet/imagenet_hatnet_s.py'
