# The name of parc/imagenet_parc_mbv2.py from before configs had folders; it stays
_base_ = 'parc/imagenet_parc_mbv2.py'
