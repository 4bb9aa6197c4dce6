# GLiT tiny; starts from the authors' file for classification, which their page https://github.com/bychen515/GLiT links
# without an address of its own: put it here
backbone = dict(type='hybrid_mm.GLiT', arch='tiny', drop_path_rate=0.1)
pretrained = dict(type='hybrid_mm.Released', checkpoint='checkpoints/glit_tiny.pth.tar')
channels = [192] * 4
pyramid = dict(type='hybrid_mm.TokenPyramid', in_channels=channels)
