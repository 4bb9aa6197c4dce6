# The recipe for one GPU
_base_ = ['maskrcnn_dsb2018.py']
