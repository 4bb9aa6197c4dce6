# MobileNetV2 of MMPreTrain, from random weights, with the outputs of ParC-MobileNetV2
backbone = dict(type='mmpretrain.MobileNetV2', widen_factor=1.0, out_indices=(1, 2, 4, 7))
channels = [24, 32, 96, 1280]
