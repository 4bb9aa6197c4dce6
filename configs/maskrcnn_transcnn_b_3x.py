# The name of transcnn/maskrcnn_transcnn_b_3x.py from before configs had folders; it stays
_base_ = 'transcnn/maskrcnn_transcnn_b_3x.py'
