# The name of setformer/maskrcnn_setformer_m.py from before configs had folders; it stays
_base_ = 'setformer/maskrcnn_setformer_m.py'
