"""The source distribution and the wheel carry configs, tools and the index of models, and work without the clone."""
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution

import pytest
from modelindex import load

import hybrid_mm

SOURCES = ('hybrid_mm', 'configs', 'tools', 'requirements', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'model-index.yml',
           'README.md', 'LICENSE')


@pytest.fixture(scope='module')
def unpacked(root, tmp_path_factory):
    """A folder with the source distribution, unpacked."""
    folder = tmp_path_factory.mktemp('sdist')
    for name in SOURCES:  # a copy, as the build writes beside setup.py
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        copy(root / name, folder / 'clone' / name if copy is shutil.copytree else folder / 'clone')
    subprocess.run([sys.executable, 'setup.py', '--quiet', 'sdist', '--dist-dir', str(folder)],
                   cwd=folder / 'clone', check=True)
    archive, = folder.glob('*.tar.gz')
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter='data')
    return folder / archive.name[:-len('.tar.gz')]


@pytest.fixture(scope='module')
def installed(unpacked):
    """A folder with what an installation of the wheel, built from the source distribution, would put into site-packages."""
    folder = unpacked.parent
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--wheel-dir',
                    str(folder), str(unpacked)], check=True)
    wheel, = folder.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / 'site')
    return folder / 'site'


def files_below(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file() and '__pycache__' not in path.parts}


def test_wheel_holds_the_package_and_nothing_beside_it(root, installed):
    assert {path.name.split('-')[0] for path in installed.iterdir()} == {'hybrid_mm'}
    modules = {name for name in files_below(root / 'hybrid_mm') if not name.startswith('.mim')}
    assert {name for name in files_below(installed / 'hybrid_mm') if not name.startswith('.mim')} == modules


@pytest.mark.parametrize('folder', ['configs', 'tools', 'requirements'])
def test_source_distribution_and_wheel_hold_every_file_of_a_folder(folder, root, unpacked, installed):
    """But for the old names of configs in a wheel: mim, which looks for a file name, has to find one."""
    old = {path.name for path in (root / folder).glob('*.py')} if folder == 'configs' else set()
    assert files_below(unpacked / folder) == files_below(root / folder)
    assert files_below(installed / 'hybrid_mm' / '.mim' / folder) == files_below(root / folder) - old


def test_mim_finds_each_config_of_the_index_once_by_its_file_name(installed):
    """As mim train and mim test do: they walk the whole package."""
    index = load(str(installed / 'hybrid_mm' / '.mim' / 'model-index.yml'))
    names = [path.name for path in (installed / 'hybrid_mm').rglob('*.py')]
    assert {name: names.count(name) for name in (os.path.basename(model.config) for model in index.models)
            if names.count(name) != 1} == {}


def test_index_in_the_wheel_is_valid_and_leads_to_configs(installed):
    mim = installed / 'hybrid_mm' / '.mim'
    index = load(str(mim / 'model-index.yml'))
    assert index.check(silent=True) == []
    assert len(index.models) > 100 and all((mim / model.config).is_file() for model in index.models)


def test_extras_name_upstream_or_the_forks_and_never_both(installed):
    dist = Distribution.at(next(installed.glob('*.dist-info')))
    of = {extra: [line.split(';')[0] for line in dist.requires if f'extra == "{extra}"' in line]
          for extra in ('det', 'seg', 'cls', 'all', 'onedl')}
    plain = [line for line in dist.requires if 'extra' not in line]
    assert not any('mm' in name for name in plain)
    assert set(of['all']) == {*of['det'], *of['seg'], *of['cls']}
    for name in ('mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'mmpretrain'):
        assert any(line.startswith(name) for line in of['all'])
        assert not any(line.startswith(name) for line in of['onedl'])
        assert any(line.startswith(f'onedl-{name}') for line in of['onedl'])


def test_configs_are_found_and_load_from_the_wheel(installed):
    code = ('import hybrid_mm; from mmengine.config import Config\n'
            'path = hybrid_mm.config_path("maskrcnn_transcnn_b.py")\n'
            'assert path == hybrid_mm.config_path("transcnn/maskrcnn_transcnn_b.py")\n'
            'assert hybrid_mm.config_path("upernet_transcnn_s_shapes.py").endswith("shapes/upernet_transcnn_s_shapes.py")\n'
            'print(path, Config.fromfile(path).model.backbone.type)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=installed,
                          env=dict(os.environ, PYTHONPATH=str(installed)))
    path = installed / 'hybrid_mm/.mim/configs/transcnn/maskrcnn_transcnn_b.py'
    assert done.stdout.split() == [str(path), 'hybrid_mm.TransCNN'], done.stderr


def test_unknown_config_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="no config 'maskrcnn.py'; choose from .*maskrcnn_transcnn_b.py"):
        hybrid_mm.config_path('maskrcnn.py')
