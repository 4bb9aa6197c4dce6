"""What a folder of the user's own holds: COCO's layout, or pictures and label maps."""
from collections import Counter
from pathlib import Path

from hybrid_mm.errors import SetupError, shorten

from .own_coco import find_coco
from .own_folder import OwnFolder, tree_of
from .own_maps import find_maps


def look_at(root: Path) -> OwnFolder:
    """What a folder holds.

    Args:
        root: the folder.

    Raises:
        SetupError: it is of neither layout, or one of them with a fault that makes its parts unclear.
    """
    if not root.is_dir():
        raise SetupError(f'{root} {"is a file" if root.exists() else "does not exist"}; give a folder with your data')
    tree = tree_of(root)
    found = find_coco(root, tree) or find_maps(root, tree)
    if found is None:
        endings = Counter(Path(name).suffix.lower() or 'without ending' for files in tree.values() for name in files)
        there = shorten(f'{number} × {ending}' for ending, number in endings.most_common()) or 'no files'
        folders = shorten(sorted(str(folder) for folder in tree if folder.parts), 8) or 'no folders'
        raise SetupError(
            f"{root} holds neither COCO's layout, JSON files with images, annotations and categories beside their pictures, nor "
            'a folder of pictures and one called annotations, labels or masks with PNG label maps of the same names; it has '
            f'{there} in {folders}; convert them to one of the two')
    return found
