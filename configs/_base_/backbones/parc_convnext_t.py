# ParC-ConvNeXt-T; starts from the user's own run of imagenet_parc_convnext_t.py, as no weights are public
backbone = dict(type='hybrid_mm.ParCConvNeXt', arch='tiny', insert_locations=(3, 3, 6, 2), drop_path_rate=0.1)
pretrained = dict(type='hybrid_mm.Released', checkpoint='work_dirs/imagenet_parc_convnext_t/epoch_300.pth')
channels = [96, 192, 384, 768]
