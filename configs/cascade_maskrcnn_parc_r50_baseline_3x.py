# The name of parc/cascade_maskrcnn_parc_r50_baseline_3x.py from before configs had folders; it stays
_base_ = 'parc/cascade_maskrcnn_parc_r50_baseline_3x.py'
