import pytest

from hybrid_mm.engine import SetupError, libraries, require


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_a_complete_library_passes(scope):
    require(scope)


@pytest.mark.parametrize('scope, missing, extra', [
    ('mmdet', 'mmdet', 'det'), ('mmseg', 'ftfy', 'seg'), ('mmpretrain', 'torchvision', 'cls')])
def test_a_missing_library_is_named_with_what_to_install(monkeypatch, scope, missing, extra):
    monkeypatch.setattr(libraries, 'find_spec', lambda name: None if name == missing else object())
    with pytest.raises(SetupError, match=rf"needs {missing}, .*; run `pip install 'hybrid_mm\[{extra}\]'`"):
        require(scope)


@pytest.mark.parametrize('scope', [None, 'mmocr'])
def test_another_scope_is_refused(scope):
    with pytest.raises(SetupError, match='default_scope=.* is not allowed; choose from mmdet, mmseg, mmpretrain'):
        require(scope)
