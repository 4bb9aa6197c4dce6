# ParC-Net-XS; starts from the user's own run of imagenet_parcnet_xs.py, as no weights are public
backbone = dict(type='hybrid_mm.ParCNet', arch='xs', insert_locations=(2, 0, 0, 0))
pretrained = dict(type='hybrid_mm.Released', checkpoint='work_dirs/imagenet_parcnet_xs/epoch_300.pth')
channels = [64, 96, 128, 160]
pooled_channels = 640
pixels = dict(mean=[0., 0., 0.], std=[255., 255., 255.], bgr_to_rgb=False)  # as MobileViT's trainer, on which ParC-Net's stands
