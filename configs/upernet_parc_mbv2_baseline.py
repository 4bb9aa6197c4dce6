# The name of parc/upernet_parc_mbv2_baseline.py from before configs had folders; it stays
_base_ = 'parc/upernet_parc_mbv2_baseline.py'
