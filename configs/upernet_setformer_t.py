# The name of setformer/upernet_setformer_t.py from before configs had folders; it stays
_base_ = 'setformer/upernet_setformer_t.py'
