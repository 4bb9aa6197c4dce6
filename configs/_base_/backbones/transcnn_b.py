# TransCNN base; the authors' file calls it Small
backbone = dict(type='hybrid_mm.TransCNN', arch='base', drop_path_rate=0.1)
released = dict(
    type='hybrid_mm.Released',
    checkpoint='https://github.com/yun-liu/TransCNN/releases/download/v1.0/TransCNN-Small.pth')
channels = [64, 128, 256, 512]
