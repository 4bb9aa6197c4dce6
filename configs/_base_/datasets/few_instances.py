# Loaders for a few hundred pictures in COCO's layout, counted in iterations; what follows names the data
_base_ = ['coco_instance.py']
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='InfiniteSampler'),
    batch_sampler=None,
    dataset=dict(ann_file='annotations/instances_train.json', data_prefix=dict(img='train/')))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(ann_file='annotations/instances_val.json', data_prefix=dict(img='val/')))
test_dataloader = val_dataloader
