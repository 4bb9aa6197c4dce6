# The name of parc/upernet_parcnet_h.py from before configs had folders; it stays
_base_ = 'parc/upernet_parcnet_h.py'
