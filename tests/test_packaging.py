"""The wheel carries configs and tools, and works without the clone."""
import os
import subprocess
import sys
import zipfile

import pytest

import hybrid_mm


@pytest.fixture(scope='module')
def installed(root, tmp_path_factory):
    """A folder with what an installation of the wheel would put into site-packages."""
    folder = tmp_path_factory.mktemp('wheel')
    subprocess.run(['git', 'clone', '--quiet', str(root), str(folder / 'clone')], check=True)  # the build writes beside setup.py
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--wheel-dir',
                    str(folder), str(folder / 'clone')], check=True)
    wheel, = folder.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / 'site')
    return folder / 'site'


def test_wheel_holds_the_package_its_configs_and_its_tools(installed):
    assert {path.name.split('-')[0] for path in installed.iterdir()} == {'hybrid_mm'}
    for name in ('layers/h_mhsa.py', '.mim/configs/maskrcnn_transcnn_b.py', '.mim/configs/_base_/runtime.py',
                 '.mim/tools/train.py', '.mim/tools/dist_train.sh'):
        assert (installed / 'hybrid_mm' / name).is_file()


def test_configs_are_found_and_load_from_the_wheel(installed):
    code = ('import hybrid_mm; from mmengine.config import Config\n'
            'path = hybrid_mm.config_path("maskrcnn_transcnn_b.py")\n'
            'print(path, Config.fromfile(path).model.backbone.type)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=installed,
                          env=dict(os.environ, PYTHONPATH=str(installed)))
    assert done.stdout.split() == [str(installed / 'hybrid_mm/.mim/configs/maskrcnn_transcnn_b.py'), 'hybrid_mm.TransCNN'], \
        done.stderr


def test_unknown_config_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match="no config 'maskrcnn.py'; choose from .*maskrcnn_transcnn_b.py"):
        hybrid_mm.config_path('maskrcnn.py')
