# The name of setformer/imagenet_setformer_t.py from before configs had folders; it stays
_base_ = 'setformer/imagenet_setformer_t.py'
