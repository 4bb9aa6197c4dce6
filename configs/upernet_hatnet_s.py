# The name of hatnet/upernet_hatnet_s.py from before configs had folders; it stays
_base_ = 'hatnet/upernet_hatnet_s.py'
