# ImageNet-1K at 224x224 as ConvNeXt's trainer reads it: each image once an epoch, 256 a GPU
_base_ = ['imagenet_224.py']
train_dataloader = dict(batch_size=256, sampler=dict(type='DefaultSampler'))
