# The name of setformer/imagenet_setformer_m.py from before configs had folders; it stays
_base_ = 'setformer/imagenet_setformer_m.py'
