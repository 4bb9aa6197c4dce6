# SeTformer tiny; starts from the user's own run of imagenet_setformer_t.py, as no weights are public
backbone = dict(type='hybrid_mm.SeTformer', arch='tiny', drop_path_rate=0.2)
pretrained = dict(type='hybrid_mm.Released', checkpoint='work_dirs/imagenet_setformer_t/epoch_300.pth')
channels = [64, 128, 256, 512]
