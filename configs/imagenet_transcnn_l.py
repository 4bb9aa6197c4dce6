# The name of transcnn/imagenet_transcnn_l.py from before configs had folders; it stays
_base_ = 'transcnn/imagenet_transcnn_l.py'
