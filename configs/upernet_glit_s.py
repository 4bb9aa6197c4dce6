# The name of glit/upernet_glit_s.py from before configs had folders; it stays
_base_ = 'glit/upernet_glit_s.py'
