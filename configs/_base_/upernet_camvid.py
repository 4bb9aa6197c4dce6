# UperNet with small heads on CamVid, from random weights; a config adds the backbone and the heads' in_channels
_base_ = ['models/upernet.py', 'datasets/camvid.py', 'schedules/adamw_few_pictures.py', 'runtime_seg.py']
num_classes = len(_base_.classes)
# mmseg starts its classifiers at a standard deviation of 0.01, which costs hundreds of steps
classifier = dict(type='Normal', std=0.1, override=dict(name='conv_seg'))

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(channels=64, num_classes=num_classes, init_cfg=classifier),
    auxiliary_head=dict(channels=64, num_classes=num_classes, init_cfg=classifier))
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=500, save_best=None))
