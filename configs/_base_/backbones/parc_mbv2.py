# ParC-MobileNetV2; starts from the user's own run of imagenet_parc_mbv2.py, as no weights are public
backbone = dict(type='hybrid_mm.ParCMobileNetV2', widen_factor=1.0, insert_locations=(1, 2, 3, 2, 2, 2, 1))
pretrained = dict(type='hybrid_mm.Released', checkpoint='work_dirs/imagenet_parc_mbv2/epoch_300.pth')
channels = [24, 32, 96, 1280]
