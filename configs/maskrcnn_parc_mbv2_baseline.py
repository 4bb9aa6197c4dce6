# The name of parc/maskrcnn_parc_mbv2_baseline.py from before configs had folders; it stays
_base_ = 'parc/maskrcnn_parc_mbv2_baseline.py'
