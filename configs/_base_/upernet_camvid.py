# UperNet with small heads on CamVid, from random weights; a config adds the backbone and the heads' in_channels
_base_ = ['models/upernet.py', 'datasets/camvid.py', 'schedules/adamw_few_pictures.py', 'runtime_seg.py']
num_classes = len(_base_.classes)
head = dict(
    channels=64,
    num_classes=num_classes,
    # the stock classifiers start at a standard deviation of 0.01, which costs hundreds of steps
    init_cfg=dict(type='Normal', std=0.1, override=dict(name='conv_seg')))
loss = dict(type='hybrid_mm.WeightedCrossEntropyLoss', class_weight=_base_.class_weight)

model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    decode_head=dict(head, loss_decode=dict(loss, _delete_=True)),
    auxiliary_head=dict(head, loss_decode=dict(loss, _delete_=True, loss_weight=0.4)))
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=500, save_best=None))
