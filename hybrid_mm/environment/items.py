"""What is checked: items, what they need, and the versions that the package asks for or is tested with."""
import re
from pathlib import Path
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

Facts = Dict[str, Dict[str, Any]]  # item -> what is known of it, see `collect_facts`
DISTRIBUTIONS = {'mmseg': 'mmsegmentation', 'cv2': 'opencv-python'}  # the others have the name of their module


def _required(name: str) -> Dict[str, str]:
    """Distribution -> version in a file of `requirements`, which lies beside the package in a clone and below it in a wheel.

    Where somebody has copied the package alone, there is none, and cures name no versions.
    """
    package = Path(__file__).resolve().parents[1]
    files = [folder / 'requirements' / name for folder in (package / '.mim', package.parent)]
    text = ''.join(file.read_text() for file in files if file.is_file())
    return dict(re.findall(r'^([\w-]+)==(\S+)', text, re.MULTILINE))


_STACK, _FORKS = _required('stack.txt'), _required('forks.txt')
PINS = {item: _STACK.get(DISTRIBUTIONS.get(item, item)) for item in (  # module -> version on which the tests run
    'setuptools', 'torch', 'numpy', 'cv2', 'torchvision', 'mmengine', 'mmcv', 'pycocotools', 'mmdet', 'mmseg', 'mmpretrain')}
FORKS = {item: (name, _FORKS.get(name)) for item, name in (  # module -> distribution and version of the maintained fork
    ('mmengine', 'onedl-mmengine'), ('mmcv', 'onedl-mmcv'), ('mmdet', 'onedl-mmdetection'), ('mmseg', 'onedl-mmsegmentation'),
    ('mmpretrain', 'onedl-mmpretrain'))}
MINIMA = {  # those of setup.py
    'python': '3.8', 'torch': '2.0', 'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0', 'mmseg': '1.2.2',
    'mmpretrain': '1.2.0'}

# item -> items that it cannot be tried without. In this order items are tried and printed, and cures can be run.
NEEDS: Dict[str, Tuple[str, ...]] = {
    'python': (), 'setuptools': (), 'torch': (), 'gpu': (), 'numpy': (),
    'cv2': ('numpy', ),
    'torchvision': ('torch', 'numpy'),
    'mmengine': ('torch', 'numpy', 'cv2'),
    'mmcv': ('mmengine', ),
    'pycocotools': ('numpy', ),
    'mmdet': ('mmcv', 'pycocotools'),
    'mmseg': ('mmcv', ),
    'mmpretrain': ('mmcv', 'torchvision'),
    'hybrid_mm': ('mmcv', ),
}
ALSO: Dict[str, Tuple[str, ...]] = {  # item -> items that tell something about it, too
    'torch': ('gpu', ), 'mmengine': ('setuptools', ), 'mmdet': ('torchvision', 'hybrid_mm'),
    'mmseg': ('torchvision', 'hybrid_mm'), 'mmpretrain': ('hybrid_mm', ),
}
NAMES = {'python': 'Python', 'cv2': 'opencv', 'gpu': 'GPU'}


class Finding(NamedTuple):
    """What is said of one item.

    Attributes:
        item: a key of `NEEDS`, or ``'compiler'``.
        status: ``'ok'``; ``'wrong'``, something that the package ships does not run; or ``'note'``, it runs, with a limit.
        text: one sentence.
        cure: the command that mends it, or an empty string.
    """
    item: str
    status: str
    text: str
    cure: str = ''


def expand(items: Iterable[str]) -> List[str]:
    """Items with all that they need, in the order of `NEEDS`."""
    found = {'python', *items}
    while True:
        more = {other for item in found for other in NEEDS[item] + ALSO.get(item, ())} - found
        if not more:
            return [item for item in NEEDS if item in found]
        found |= more


def is_fork(facts: Facts) -> bool:
    """Whether an environment with these facts has the maintained forks, or some of them."""
    return any(distribution in facts['python'].get('others', []) for distribution, _ in FORKS.values())


def pin_of(item: str, facts: Facts) -> Tuple[str, Optional[str]]:
    """The distribution of an item and the version on which the tests run, or None: the fork's where the forks are."""
    upstream = DISTRIBUTIONS.get(item, item), PINS.get(item)
    return FORKS.get(item, upstream) if is_fork(facts) else upstream


def works(facts: Optional[dict]) -> bool:
    """Whether an item with these facts works; None, an item that is not checked, is taken to."""
    return facts is None or facts['found'] and 'error' not in facts and 'untried' not in facts


def version_numbers(version: Optional[str]) -> tuple:
    """The numbers that a version begins with, such as (2, 13, 0) of ``'2.13.0+cu130'``; empty if there are none."""
    match = re.match(r'\d+(?:\.\d+)*', version or '')
    return tuple(map(int, match.group().split('.'))) if match else ()
