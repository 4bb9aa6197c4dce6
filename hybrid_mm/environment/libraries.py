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
    """See that the library of a config is installed.

    Args:
        scope: the config's ``default_scope``: mmdet, mmseg or mmpretrain.

    Raises:
        SetupError: the scope is another one, or something is missing; the message says what to install.
    """
    if scope not in _LIBRARIES:
        raise SetupError(f'default_scope={scope!r} of the config is not allowed; choose from {", ".join(_LIBRARIES)}')
    extra, modules = _LIBRARIES[scope]
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        extra = 'onedl' if _has_forks() else extra
        raise SetupError(f'default_scope={scope!r} needs {", ".join(missing)}, not installed here; '
                         f"run `pip install 'hybrid_mm[{extra}]'`")


def _has_forks() -> bool:
    """Whether the libraries here are the maintained forks: an extra with upstream's would overwrite their modules."""
    try:
        return bool(version('onedl-mmengine'))
    except PackageNotFoundError:
        return False
