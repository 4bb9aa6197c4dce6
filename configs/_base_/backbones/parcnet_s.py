# ParC-Net-S; starts from the authors' file for classification, which their page https://github.com/hkzhang91/ParC-Net links
# without an address of its own: put it here
backbone = dict(type='hybrid_mm.ParCNet', arch='s', insert_locations=(2, 0, 0, 0))
pretrained = dict(type='hybrid_mm.Released', checkpoint='checkpoints/parcnet_s/checkpoint_ema_avg.pt')
channels = [64, 96, 128, 160]
pooled_channels = 640
pixels = dict(mean=[0., 0., 0.], std=[255., 255., 255.], bgr_to_rgb=False)  # as MobileViT's trainer, on which ParC-Net's stands
