# The name of hatnet/maskrcnn_hatnet_m.py from before configs had folders; it stays
_base_ = 'hatnet/maskrcnn_hatnet_m.py'
