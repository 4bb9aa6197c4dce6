# Mask R-CNN on a few pictures of shapes. SHAPES is the folder of the data.
_base_ = [__import__('hybrid_mm').config_path('maskrcnn_transcnn_s_shapes.py'), 'base.py']

model = dict(
    backbone=dict(_base_.tiny_backbone, drop_path_rate=0.2),
    neck=dict(in_channels=_base_.tiny_channels))

data_root = '{{$SHAPES:data/shapes}}/coco/'
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = _base_.probes
