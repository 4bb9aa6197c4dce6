# The name of transcnn/upernet_transcnn_s.py from before configs had folders; it stays
_base_ = 'transcnn/upernet_transcnn_s.py'
