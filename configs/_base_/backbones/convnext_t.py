# ConvNeXt-T of MMPreTrain, from random weights
backbone = dict(type='mmpretrain.ConvNeXt', arch='tiny', out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
channels = [96, 192, 384, 768]
