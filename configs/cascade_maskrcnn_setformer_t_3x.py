# The name of setformer/cascade_maskrcnn_setformer_t_3x.py from before configs had folders; it stays
_base_ = 'setformer/cascade_maskrcnn_setformer_t_3x.py'
