# HAT-Net tiny
backbone = dict(type='hybrid_mm.HATNet', arch='tiny', drop_path_rate=0.1)
released = dict(
    type='hybrid_mm.Released',
    checkpoint='https://github.com/yun-liu/HAT-Net/releases/download/v2.0/HAT-Net_Tiny.pth')
channels = [48, 96, 240, 384]
