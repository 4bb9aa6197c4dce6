# The name of setformer/upernet_setformer_b.py from before configs had folders; it stays
_base_ = 'setformer/upernet_setformer_b.py'
