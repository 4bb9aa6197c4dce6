# The name of parc/upernet_parcnet_s.py from before configs had folders; it stays
_base_ = 'parc/upernet_parcnet_s.py'
