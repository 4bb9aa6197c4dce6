# Swin-T of MMDetection, from random weights
backbone = dict(type='mmdet.SwinTransformer', embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7)
channels = [96, 192, 384, 768]
