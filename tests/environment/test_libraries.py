from importlib.metadata import PackageNotFoundError

import pytest

from hybrid_mm.engine import SetupError, require
from hybrid_mm.environment import libraries


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_a_complete_library_passes(scope):
    require(scope)


@pytest.fixture
def install(monkeypatch):
    """Make it look as if all modules but one were there, of upstream or of the maintained forks."""

    def install(missing, mmengine):

        def version(name):
            if name != mmengine:
                raise PackageNotFoundError(name)
            return '0.10.12'

        monkeypatch.setattr(libraries, 'find_spec', lambda name: None if name == missing else object())
        monkeypatch.setattr(libraries, 'version', version)

    return install


@pytest.mark.parametrize('mmengine, scope, missing, extra', [
    ('mmengine', 'mmdet', 'mmdet', 'det'), ('mmengine', 'mmseg', 'ftfy', 'seg'),
    ('mmengine', 'mmpretrain', 'torchvision', 'cls'),
    # any other extra would install upstream's mmengine and mmcv over the forks
    ('onedl-mmengine', 'mmdet', 'mmdet', 'onedl'), ('onedl-mmengine', 'mmseg', 'mmseg', 'onedl')])
def test_a_missing_library_is_named_with_what_to_install(install, mmengine, scope, missing, extra):
    install(missing, mmengine)
    with pytest.raises(SetupError, match=rf"needs {missing}, .*; run `pip install 'hybrid_mm\[{extra}\]'`"):
        require(scope)


@pytest.mark.parametrize('scope', [None, 'mmocr'])
def test_another_scope_is_refused(scope):
    with pytest.raises(SetupError, match='default_scope=.* is not allowed; choose from mmdet, mmseg, mmpretrain'):
        require(scope)
