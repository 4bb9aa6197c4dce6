# TransCNN small; the authors' file calls it Tiny
backbone = dict(type='hybrid_mm.TransCNN', arch='small', drop_path_rate=0.1)
released = dict(
    type='hybrid_mm.Released',
    checkpoint='https://github.com/yun-liu/TransCNN/releases/download/v1.0/TransCNN-Tiny.pth')
channels = [64, 128, 256, 512]
