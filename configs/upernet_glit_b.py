# The name of glit/upernet_glit_b.py from before configs had folders; it stays
_base_ = 'glit/upernet_glit_b.py'
