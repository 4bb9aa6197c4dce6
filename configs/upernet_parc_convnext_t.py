# The name of parc/upernet_parc_convnext_t.py from before configs had folders; it stays
_base_ = 'parc/upernet_parc_convnext_t.py'
