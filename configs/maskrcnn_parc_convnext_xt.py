# The name of parc/maskrcnn_parc_convnext_xt.py from before configs had folders; it stays
_base_ = 'parc/maskrcnn_parc_convnext_xt.py'
