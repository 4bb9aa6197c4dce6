# The name of parc/maskrcnn_parc_mbv2.py from before configs had folders; it stays
_base_ = 'parc/maskrcnn_parc_mbv2.py'
