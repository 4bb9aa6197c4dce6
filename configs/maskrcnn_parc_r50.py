# The name of parc/maskrcnn_parc_r50.py from before configs had folders; it stays
_base_ = 'parc/maskrcnn_parc_r50.py'
