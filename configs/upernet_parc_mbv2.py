# The name of parc/upernet_parc_mbv2.py from before configs had folders; it stays
_base_ = 'parc/upernet_parc_mbv2.py'
