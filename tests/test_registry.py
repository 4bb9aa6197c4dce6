import importlib

import pytest

import hybrid_mm
from hybrid_mm import registry


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_types_are_found_from_each_library_without_any_import_of_ours(library, run_python):
    done = run_python(f'''
        import torch
        from hybrid_mm.compat import mend_torchvision
        mend_torchvision()
        import {library}.models
        from {library}.registry import MODELS
        from mmengine.registry import init_default_scope
        init_default_scope('{library}')
        with torch.device('meta'):
            model = MODELS.build(dict(type='hybrid_mm.TransCNN', arch='small'))
            other = MODELS.build(dict(type='hybrid_mm.HATNet', arch='tiny'))
        print(model.out_channels, other.out_channels)
    ''')
    assert done.stdout.split('\n')[-2] == '(64, 128, 256, 512) (48, 96, 240, 384)', done.stderr


def test_package_needs_only_torch_mmengine_and_mmcv(run_python):
    done = run_python('''
        import sys
        for name in ('mmdet', 'mmseg', 'mmpretrain', 'torchvision'):
            sys.modules[name] = None
        import hybrid_mm, hybrid_mm.registry, hybrid_mm.backbones, hybrid_mm.plugins, hybrid_mm.checkpoints
        import hybrid_mm.engine, hybrid_mm.layers
        print(hybrid_mm.__version__)
    ''')
    assert done.returncode == 0 and done.stdout.strip() == hybrid_mm.__version__, done.stderr


def test_import_is_cheap(run_python):
    done = run_python('''
        import sys, hybrid_mm
        print(sorted({'torch', 'mmengine', 'mmcv'} & set(sys.modules)))
    ''')
    assert done.stdout.strip() == '[]', done.stderr


def test_every_location_of_the_registries_exists():
    ours = [r for r in vars(registry).values() if getattr(r, 'scope', None) == 'hybrid_mm']
    assert ours
    for entry in ours:
        for location in entry._locations:
            importlib.import_module(location)
        assert len(entry) > 0, entry.name
