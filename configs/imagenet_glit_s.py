# The name of glit/imagenet_glit_s.py from before configs had folders; it stays
_base_ = 'glit/imagenet_glit_s.py'
