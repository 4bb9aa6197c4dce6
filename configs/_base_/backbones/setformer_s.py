# SeTformer small; starts from the user's own run of imagenet_setformer_s.py, as no weights are public
backbone = dict(type='hybrid_mm.SeTformer', arch='small', drop_path_rate=0.3)
pretrained = dict(type='hybrid_mm.Released', checkpoint='work_dirs/imagenet_setformer_s/epoch_300.pth')
channels = [96, 192, 384, 768]
