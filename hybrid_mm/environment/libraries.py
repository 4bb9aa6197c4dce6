"""Which OpenMMLab library a config needs, and whether it is there."""
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from hybrid_mm.errors import SetupError

# scope -> (our extra, modules that it installs); mmseg imports ftfy and regex without declaring them
_LIBRARIES = {
    'mmdet': ('det', ('mmdet', 'mmcv', 'pycocotools')),
    'mmseg': ('seg', ('mmseg', 'mmcv', 'ftfy', 'regex')),
    'mmpretrain': ('cls', ('mmpretrain', 'mmcv', 'torchvision')),
}


def require(scope: str) -> None:
    """See that the library of a config with this ``default_scope`` is installed.

    Raises:
        SetupError: the scope is not mmdet, mmseg or mmpretrain, or something is missing; the message says what to install.
    """
    if scope not in _LIBRARIES:
        raise SetupError(f'default_scope={scope!r} of the config is not allowed; choose from {", ".join(_LIBRARIES)}')
    extra, modules = _LIBRARIES[scope]
    missing = [module for module in modules if find_spec(module) is None]
    if not missing:
        return
    try:  # an extra with upstream's libraries would overwrite the modules of the maintained forks
        version('onedl-mmengine')
        extra = 'onedl'
    except PackageNotFoundError:
        pass
    raise SetupError(f'default_scope={scope!r} needs {", ".join(missing)}, not installed here; '
                     f"run `pip install 'hybrid_mm[{extra}]'`")
