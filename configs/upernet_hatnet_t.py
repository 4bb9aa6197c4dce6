# The name of hatnet/upernet_hatnet_t.py from before configs had folders; it stays
_base_ = 'hatnet/upernet_hatnet_t.py'
