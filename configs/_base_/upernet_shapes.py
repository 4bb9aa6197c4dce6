# UperNet with small heads on the synthetic shapes, from random weights; a config adds the backbone and the heads' in_channels
_base_ = ['models/upernet.py', 'datasets/shapes_semantic.py', 'schedules/adamw_shapes.py', 'runtime_seg.py']
max_epochs = 5
num_classes = 1 + len(_base_.shapes_classes)  # with the background
width, height = _base_.shapes_size

model = dict(
    data_preprocessor=dict(size=(height, width)),
    # a norm on each output, as nothing is pre-trained
    backbone=dict(out_norm=True),
    decode_head=dict(channels=128, num_classes=num_classes),
    auxiliary_head=dict(channels=64, num_classes=num_classes))

train_dataloader = dict(batch_size=4)
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
default_hooks = dict(
    logger=dict(interval=10, log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1))
log_processor = dict(by_epoch=True)
custom_hooks = [*_base_.custom_hooks, dict(type='hybrid_mm.ProgressBarHook')]
