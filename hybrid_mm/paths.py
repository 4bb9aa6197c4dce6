"""Where the shipped configs lie, in a clone and in an installed wheel."""
from pathlib import Path


def config_path(name: str) -> str:
    """Absolute path of a shipped config, for `_base_` lists of other projects.

    Args:
        name: file name such as ``'maskrcnn_transcnn_b.py'``, or a path below ``configs/`` such as
            ``'shapes/maskrcnn_transcnn_s_shapes.py'``.

    Returns:
        The file in the folder of its family, also for a name that stands in ``configs/`` itself, too.

    Raises:
        FileNotFoundError: no shipped config has this name.

    Example:
        ``_base_ = [__import__('hybrid_mm').config_path('maskrcnn_transcnn_b.py')]``
    """
    root = _config_root()
    # File names are unique but for the old ones in the root, which a wheel leaves out; a test keeps them so.
    found = [root / name] if '/' in name else sorted(root.rglob(name or '-'), key=lambda path: path.parent == root)
    if found and found[0].is_file():
        return str(found[0])
    known = sorted(str(path.relative_to(root)) for path in root.glob('*/*.py') if '_base_' not in path.parts)
    raise FileNotFoundError(f'hybrid_mm ships no config {name!r}; choose from {", ".join(known)}')


def _config_root() -> Path:
    package = Path(__file__).resolve().parent
    for root in (package / '.mim' / 'configs', package.parent / 'configs'):
        if root.is_dir():
            return root
    raise FileNotFoundError(f'the configs of hybrid_mm are neither in {package / ".mim"} nor in {package.parent}')
