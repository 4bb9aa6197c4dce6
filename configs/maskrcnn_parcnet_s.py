# The name of parc/maskrcnn_parcnet_s.py from before configs had folders; it stays
_base_ = 'parc/maskrcnn_parcnet_s.py'
