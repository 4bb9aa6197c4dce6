# The name of parc/maskrcnn_parcnet_h.py from before configs had folders; it stays
_base_ = 'parc/maskrcnn_parcnet_h.py'
