# HAT-Net large
backbone = dict(type='hybrid_mm.HATNet', arch='large', drop_path_rate=0.3)
released = dict(
    type='hybrid_mm.Released',
    checkpoint='https://github.com/yun-liu/HAT-Net/releases/download/v2.0/HAT-Net_Large.pth')
channels = [64, 128, 320, 640]
