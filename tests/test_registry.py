import importlib

import pytest

import hybrid_mm
from hybrid_mm import registry

CODE = '''
import torch
import {library}.models
from {library}.registry import MODELS
from mmengine.registry import init_default_scope
init_default_scope('{library}')
with torch.device('meta'):
    model = MODELS.build(dict(type='hybrid_mm.TransCNN', arch='small'))
    other = MODELS.build(dict(type='hybrid_mm.HATNet', arch='tiny'))
print(model.out_channels, other.out_channels)
'''


@pytest.mark.parametrize('library', ['mmdet', 'mmseg', 'mmpretrain'])
def test_types_are_found_from_each_library_without_any_import_of_ours(library, run_in_forks, root, tmp_path):
    (tmp_path / 'code.py').write_text(CODE.format(library=library))
    out, err = tmp_path / 'out', tmp_path / 'err'
    status = run_in_forks([['python', 'code.py']], tmp_path, out, err, PYTHONPATH=str(root))
    assert status == 0 and out.read_text().splitlines()[-1] == '(64, 128, 256, 512) (48, 96, 240, 384)', err.read_text()


def test_package_needs_torch_and_mmengine_alone(run_python):
    done = run_python('''
        import sys
        for name in ('mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'torchvision'):
            sys.modules[name] = None
        import hybrid_mm, hybrid_mm.registry, hybrid_mm.backbones, hybrid_mm.plugins, hybrid_mm.checkpoints
        import hybrid_mm.engine, hybrid_mm.layers
        print(hybrid_mm.__version__)
    ''')
    assert done.returncode == 0 and done.stdout.strip() == hybrid_mm.__version__, done.stderr


def test_commands_mend_reading_of_configs_and_checkpoints_before_they_read_any(run_python):
    """Whatever the network is: one of the libraries' own does not bring our registries in."""
    done = run_python('''
        import sys, torch
        import hybrid_mm.commands.train
        print('hybrid_mm.registry' in sys.modules, len(torch.serialization.get_safe_globals()) > 0)
    ''')
    assert done.stdout.split() == ['True', 'True'], done.stderr


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
