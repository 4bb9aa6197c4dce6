# TransCNN medium
backbone = dict(type='hybrid_mm.TransCNN', arch='medium', drop_path_rate=0.3)
released = dict(
    type='hybrid_mm.Released',
    checkpoint='https://github.com/yun-liu/TransCNN/releases/download/v1.0/TransCNN-Medium.pth')
channels = [64, 128, 320, 640]
