"""Trying an item in this process: each function imports it and returns facts, or raises what the import raises."""
import glob
import importlib
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Dict, List

from .items import DISTRIBUTIONS, FORKS, version_numbers, works

_IMPORTED = {  # item -> the module that shows whether it works, where that is not its name
    'mmengine': 'mmengine.runner', 'mmdet': 'mmdet.models', 'mmseg': 'mmseg.models', 'mmpretrain': 'mmpretrain.models',
    'pycocotools': 'pycocotools.mask',
}


def probe(item: str, facts: Dict[str, dict]) -> dict:
    """Import and try an item.

    Args:
        item: a key of `NEEDS`.
        facts: those of the items before it.

    Returns:
        Its facts: ``version``, and what the function for the item says.

    Raises:
        BaseException: whatever its import raises.
    """
    return _PROBES.get(item, _probe_module)(item, facts)


def first_line(error: BaseException) -> str:
    """The first line of the message of an error, at most 300 characters; its type where it has no message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _probe_python(item: str, facts: Dict[str, dict]) -> dict:
    """``others``: distributions of the maintained forks, and of mmcv without operators; ``twice``: modules that upstream's
    distribution and the fork have both put there."""
    try:
        found = importlib.import_module('importlib.metadata').distributions()
        names = {(distribution.metadata['Name'] or '').lower().replace('_', '-') for distribution in found}
    except Exception:  # Python 3.7, or a broken distribution
        names = set()
    return dict(version='.'.join(map(str, sys.version_info[:3])),
                others=sorted(name for name in names if name.startswith('onedl-') or name == 'mmcv-lite'),
                twice=[item for item in FORKS if {FORKS[item][0], DISTRIBUTIONS.get(item, item)} <= names])


def _probe_setuptools(item: str, facts: Dict[str, dict]) -> dict:
    """``pkg_resources``: whether it imports; ``needed``: whether mmengine, or compiling upstream's mmcv, asks for it."""
    try:
        importlib.import_module('pkg_resources')
        return dict(pkg_resources=True, needed=True)
    except Exception:
        pass
    try:  # upstream's calls pkg_resources here, the maintained fork does not
        importlib.import_module('mmengine.utils').is_installed('pip')
        return dict(pkg_resources=False, needed=False)
    except Exception:
        return dict(pkg_resources=False, needed=True)


def _probe_torch(item: str, facts: Dict[str, dict]) -> dict:
    """``cuda``, ``hip``: the versions that torch was built for, or None."""
    torch = importlib.import_module('torch')
    return dict(version=str(torch.__version__), cuda=torch.version.cuda, hip=getattr(torch.version, 'hip', None))


def _probe_gpu(item: str, facts: Dict[str, dict]) -> dict:
    """``cards``: NVIDIA's GPUs as the driver lists them; ``names``: those that torch sees; ``hidden``: whether a variable hides
    all; ``failure``: what a computation on the first one raises; ``nvcc``, ``compiler``, ``headers``: what compiles mmcv."""
    result = dict(cards=_cards(), names=[], hidden=os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1'),
                  nvcc=bool(os.environ.get('CUDA_HOME') or shutil.which('nvcc') or glob.glob('/usr/local/cuda/bin/nvcc')),
                  compiler=any(map(shutil.which, (os.environ.get('CXX') or 'c++', 'c++', 'g++', 'clang++', 'cl'))),
                  headers=(Path(sysconfig.get_paths()['include']) / 'Python.h').is_file())
    if not works(facts.get('torch', dict(found=False))):
        return result
    torch = importlib.import_module('torch')
    if torch.cuda.is_available():
        try:
            result['names'] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            (torch.ones(2, device='cuda') * 2).sum().item()
        except Exception as error:
            result['failure'] = first_line(error)
    return result


def _cards() -> List[str]:
    try:
        done = subprocess.run(['nvidia-smi', '-L'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = done.stdout.decode(errors='replace').splitlines() if done.returncode == 0 else []
    return [line.split(' (UUID')[0] for line in lines if line.startswith('GPU ')]


def _probe_numpy(item: str, facts: Dict[str, dict]) -> dict:
    """``torch_error``: what turning an array into a tensor raises."""
    numpy = importlib.import_module('numpy')
    result = dict(version=numpy.__version__)
    if works(facts.get('torch', dict(found=False))):
        try:
            importlib.import_module('torch').from_numpy(numpy.zeros(1)).numpy()
        except Exception as error:
            result['torch_error'] = first_line(error)
    return result


def _probe_torchvision(item: str, facts: Dict[str, dict]) -> dict:
    """``mended``: what the import raises, where the way round it that our tools take works."""
    try:
        return dict(version=importlib.import_module('torchvision').__version__)
    except RuntimeError as error:
        importlib.import_module('hybrid_mm.compat').mend_torchvision()
        return dict(mended=first_line(error))


class _Asks:
    """Saved in a checkpoint, it asks for a function of the system when it is loaded, a harmless one."""

    def __reduce__(self):
        return os.getcwd, ()


def _probe_mmengine(item: str, facts: Dict[str, dict]) -> dict:
    """``unsafe``: whether it loads a checkpoint that torch, from 2.6 on, refuses because it asks for a function."""
    result, torch = _probe_module(item, facts), importlib.import_module('torch')
    if version_numbers(str(torch.__version__)) < (2, 6):
        return result
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'checkpoint.pth')
        torch.save(dict(state_dict=_Asks()), path)
        try:
            importlib.import_module('mmengine.runner').CheckpointLoader.load_checkpoint(path, map_location='cpu')
            return dict(result, unsafe=True)
        except pickle.UnpicklingError:
            return dict(result, unsafe=False)


def _probe_mmcv(item: str, facts: Dict[str, dict]) -> dict:
    """``gpu_error``: what an operator raises on the GPU."""
    mmcv, torch = importlib.import_module('mmcv'), importlib.import_module('torch')
    ops = importlib.import_module('mmcv.ops')
    boxes, scores = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]]), torch.tensor([0.9, 0.8])
    if len(ops.nms(boxes, scores, 0.5)[1]) != 1:
        raise RuntimeError('its nms keeps two boxes that overlap')
    result = dict(version=mmcv.__version__)
    if torch.cuda.is_available():
        try:
            ops.nms(boxes.cuda(), scores.cuda(), 0.5)
        except Exception as error:
            result['gpu_error'] = first_line(error)
    return result


def _probe_module(item: str, facts: Dict[str, dict]) -> dict:
    module = importlib.import_module(item)
    importlib.import_module(_IMPORTED.get(item, item))
    version = getattr(module, '__version__', None)
    return dict(version=str(version)) if version else {}


def _probe_hybrid_mm(item: str, facts: Dict[str, dict]) -> dict:
    importlib.import_module('hybrid_mm.backbones')
    return dict(version=importlib.import_module('hybrid_mm').__version__)


_PROBES = {
    'python': _probe_python, 'setuptools': _probe_setuptools, 'torch': _probe_torch, 'gpu': _probe_gpu, 'numpy': _probe_numpy,
    'torchvision': _probe_torchvision, 'mmengine': _probe_mmengine, 'mmcv': _probe_mmcv, 'hybrid_mm': _probe_hybrid_mm,
}
