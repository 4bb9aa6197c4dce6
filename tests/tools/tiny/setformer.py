# Mask R-CNN with a small SeTformer on a few pictures of shapes. SHAPES is the folder of the data.
_base_ = [__import__('hybrid_mm').config_path('maskrcnn_setformer_m_shapes.py')]

tiny_channels = [16, 16, 32, 32]
model = dict(
    backbone=dict(
        _delete_=True,
        type='hybrid_mm.SeTformer',
        arch=dict(channels=tiny_channels, depths=[1, 1, 2, 1], mlp_ratio=1, head_dim=16),
        num_references=9),
    neck=dict(in_channels=tiny_channels))

data_root = '{{$SHAPES:data/shapes}}/coco/'
train_dataloader = dict(batch_size=4, dataset=dict(data_root=data_root))
val_dataloader = None
val_evaluator = None
val_cfg = None
train_cfg = dict(max_epochs=1)
