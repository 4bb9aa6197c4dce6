# The name of hatnet/imagenet_hatnet_t.py from before configs had folders; it stays
_base_ = 'hatnet/imagenet_hatnet_t.py'
