# The name of parc/imagenet_parc_mbv2_baseline.py from before configs had folders; it stays
_base_ = 'parc/imagenet_parc_mbv2_baseline.py'
