# The recipe for one GPU
_base_ = ['upernet_camvid.py']
