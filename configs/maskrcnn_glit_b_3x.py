# The name of glit/maskrcnn_glit_b_3x.py from before configs had folders; it stays
_base_ = 'glit/maskrcnn_glit_b_3x.py'
