# ParC-ResNet50; starts from the user's own run of imagenet_parc_r50.py, as no weights are public
backbone = dict(type='hybrid_mm.ParCResNet', depth=50, insert_locations=(3, 4, 3, 2))
pretrained = dict(type='hybrid_mm.Released', checkpoint='work_dirs/imagenet_parc_r50/epoch_300.pth')
channels = [256, 512, 1024, 2048]
