# The recipe for one GPU
_base_ = ['fasterrcnn_bccd.py']
