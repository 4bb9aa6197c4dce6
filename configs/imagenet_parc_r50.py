# The name of parc/imagenet_parc_r50.py from before configs had folders; it stays
_base_ = 'parc/imagenet_parc_r50.py'
