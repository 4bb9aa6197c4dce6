# The name of glit/imagenet_glit_t.py from before configs had folders; it stays
_base_ = 'glit/imagenet_glit_t.py'
