# The name of setformer/imagenet_setformer_b.py from before configs had folders; it stays
_base_ = 'setformer/imagenet_setformer_b.py'
