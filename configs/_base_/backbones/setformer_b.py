# SeTformer base; starts from the user's own run of imagenet_setformer_b.py, as no weights are public
backbone = dict(type='hybrid_mm.SeTformer', arch='base', drop_path_rate=0.5)
pretrained = dict(type='hybrid_mm.Released', checkpoint='work_dirs/imagenet_setformer_b/epoch_300.pth')
channels = [128, 256, 512, 1024]
