"""Backbones, necks and plugins in a process in which torch and mmengine are all that can be imported."""
from backbones.features import BACKBONES


def test_everything_is_built_and_runs_without_the_libraries(run_python, root):
    done = run_python(f'''
        import sys
        BLOCKED = 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'
        for name in BLOCKED:
            sys.modules[name] = None  # its import fails, and whoever looks for it does not find it
        sys.path.insert(0, {str(root / 'tests')!r})
        import copy, logging
        import torch
        import hybrid_mm.backbones, hybrid_mm.necks, hybrid_mm.plugins
        from mmengine.registry import MODELS
        from backbones.features import BACKBONES
        logging.getLogger('mmengine').setLevel(logging.ERROR)
        cfgs = dict(BACKBONES)
        cfgs['WithParC, on ConvNeXt'] = dict(
            type='hybrid_mm.WithParC', select='dwconv', resolution=64,
            backbone=dict(BACKBONES['ParCConvNeXt'], insert_locations=()))
        for name, cfg in cfgs.items():
            model = MODELS.build(dict(copy.deepcopy(cfg), drop_path_rate=0.1) if 'WithParC' not in name else cfg)
            model.init_weights()
            sum(y.square().mean() for y in model.train()(torch.randn(2, 3, 64, 64))).backward()
            print('ran', name)
        for kind in ('BN', 'SyncBN', 'IN', 'hybrid_mm.LN2d'):
            neck = MODELS.build(dict(type='hybrid_mm.TokenPyramid', in_channels=4, norm_cfg=dict(type=kind)))
            neck([torch.randn(2, 4, 2, 2)] * 4)
        MODELS.build(dict(type='hybrid_mm.PooledVector', in_channels=4, norm_cfg=dict(type='LN')))(torch.randn(2, 4, 2, 2))
        for cfg in (dict(type='HMHSA'), dict(type='IterativeHMHSA'), dict(type='ParC', base_size=4)):
            MODELS.build(dict(cfg, type=f'hybrid_mm.{{cfg["type"]}}', in_channels=64))(torch.randn(2, 64, 16, 16))
        print(*(name for name in sys.modules if name in BLOCKED and sys.modules[name] is not None), 'end')
    ''')
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == 'end', done.stdout + done.stderr
    assert [line[4:] for line in done.stdout.splitlines() if line.startswith('ran ')] == list(BACKBONES)
