# The name of transcnn/imagenet_transcnn_s.py from before configs had folders; it stays
_base_ = 'transcnn/imagenet_transcnn_s.py'
