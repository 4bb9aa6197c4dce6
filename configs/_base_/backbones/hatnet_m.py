# HAT-Net medium
backbone = dict(type='hybrid_mm.HATNet', arch='medium', drop_path_rate=0.3)
released = dict(
    type='hybrid_mm.Released',
    checkpoint='https://github.com/yun-liu/HAT-Net/releases/download/v2.0/HAT-Net_Medium.pth')
channels = [64, 128, 320, 512]
