# ImageNet-1K at 224x224 as Swin's trainer reads it: each image once an epoch, 128 a GPU
_base_ = ['imagenet_224.py']
train_dataloader = dict(sampler=dict(type='DefaultSampler'))
