# GLiT small; starts from the user's own run of imagenet_glit_s.py, as no weights are public
backbone = dict(type='hybrid_mm.GLiT', arch='small', drop_path_rate=0.1)
pretrained = dict(type='hybrid_mm.Released', checkpoint='work_dirs/imagenet_glit_s/epoch_310.pth')
channels = [360] * 4
pyramid = dict(type='hybrid_mm.TokenPyramid', in_channels=channels)
