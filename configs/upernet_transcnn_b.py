# The name of transcnn/upernet_transcnn_b.py from before configs had folders; it stays
_base_ = 'transcnn/upernet_transcnn_b.py'
