# UperNet as in upernet.py, tested on overlapping windows of the training size
_base_ = ['upernet.py']
model = dict(test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
