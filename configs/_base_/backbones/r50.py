# ResNet-50 of MMDetection, from random weights
backbone = dict(type='mmdet.ResNet', depth=50, norm_eval=False)
channels = [256, 512, 1024, 2048]
