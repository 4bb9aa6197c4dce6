# The name of transcnn/upernet_transcnn_l.py from before configs had folders; it stays
_base_ = 'transcnn/upernet_transcnn_l.py'
