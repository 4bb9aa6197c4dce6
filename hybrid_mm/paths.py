"""Where the shipped configs lie, in a clone and in an installed wheel."""
from pathlib import Path


def config_path(name: str) -> str:
    """Absolute path of a shipped config, for `_base_` lists of other projects.

    Args:
        name: file name such as ``'maskrcnn_transcnn_b.py'``, or a path below ``configs/`` such as
            ``'shapes/maskrcnn_transcnn_s_shapes.py'``.

    Raises:
        FileNotFoundError: no shipped config has this name.

    Example:
        ``_base_ = [__import__('hybrid_mm').config_path('maskrcnn_transcnn_b.py')]``
    """
    root = _config_root()
    direct = root / name
    if direct.is_file():
        return str(direct)
    found = sorted(root.rglob(name)) if '/' not in name else []
    if found:  # file names are unique in the whole tree; a test keeps them so
        return str(found[0])
    known = sorted(str(path.relative_to(root)) for path in root.rglob('*.py') if '_base_' not in path.parts)
    raise FileNotFoundError(f'hybrid_mm ships no config {name!r}; choose from {", ".join(known)}')


def _config_root() -> Path:
    package = Path(__file__).resolve().parent
    for root in (package / '.mim' / 'configs', package.parent / 'configs'):
        if root.is_dir():
            return root
    raise FileNotFoundError(f'the configs of hybrid_mm are neither in {package / ".mim"} nor in {package.parent}')
