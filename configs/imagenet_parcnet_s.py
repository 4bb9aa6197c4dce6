# The name of parc/imagenet_parcnet_s.py from before configs had folders; it stays
_base_ = 'parc/imagenet_parcnet_s.py'
