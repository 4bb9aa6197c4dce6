# HAT-Net small
backbone = dict(type='hybrid_mm.HATNet', arch='small', drop_path_rate=0.1)
released = dict(
    type='hybrid_mm.Released',
    checkpoint='https://github.com/yun-liu/HAT-Net/releases/download/v2.0/HAT-Net_Small.pth')
channels = [64, 128, 320, 512]
