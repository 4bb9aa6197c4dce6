# What the tiny configs share: a backbone small enough for a test, and the hooks of training_probes.py
tiny_channels = [16, 32, 32, 64]
tiny_backbone = dict(
    arch=dict(
        _delete_=True,
        channels=tiny_channels,
        depths=[1, 1, 1, 1],
        expansions=[2, 2, 2, 2],
        kernel_sizes=[3, 3, 3, 3],
        grid_sizes=[8, 8, 8, 1],
        pool_ratios=[8, 4, 2, 1],
        grid_lists=[[2, 2]] * 4),
    head_dim=16)
custom_imports = dict(imports=['training_probes'], allow_failed_imports=False)
probes = dict(losses=dict(type='RecordLosses'), kill=dict(type='KillProcess'))
