# The name of setformer/maskrcnn_setformer_t_3x.py from before configs had folders; it stays
_base_ = 'setformer/maskrcnn_setformer_t_3x.py'
