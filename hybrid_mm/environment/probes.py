"""Trying an item in this process: `probe` imports it and returns facts, or raises what the import raises."""
import os
import pickle
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from contextlib import suppress
from importlib import import_module
from typing import Any, Callable, Dict

from hybrid_mm.errors import first_line

from .items import DISTRIBUTIONS, FORKS, Facts, version_numbers, works

_MODULES = {  # item -> the module that shows whether it works, where that is not its name
    'mmcv': 'mmcv.ops', 'mmengine': 'mmengine.runner', 'mmdet': 'mmdet.models', 'mmseg': 'mmseg.models',
    'mmpretrain': 'mmpretrain.models', 'pycocotools': 'pycocotools.mask', 'hybrid_mm': 'hybrid_mm.backbones',
}


def probe(item: str, facts: Facts) -> Dict[str, Any]:
    """Import and try an item, a key of `NEEDS`; ``facts`` are those of the items before it. Raises whatever its import raises.

    Returns:
        ``version``, where the module has one, and what the function for the item says.
    """
    result = {}
    if item not in ('python', 'setuptools', 'gpu', 'torchvision'):
        module = import_module(item)
        import_module(_MODULES.get(item, item))
        if getattr(module, '__version__', None):
            result['version'] = str(module.__version__)
    if item not in _MORE:
        return result
    has_torch = item == 'torch' or works(facts.get('torch', dict(found=False)))
    return {**result, **_MORE[item](import_module('torch') if has_torch else None)}


def _python(torch: Any) -> Dict[str, Any]:
    """``others``: distributions of the maintained forks, and of mmcv without operators; ``twice``: modules that upstream's
    distribution and the fork have both put there."""
    try:
        found = import_module('importlib.metadata').distributions()
        names = {(distribution.metadata['Name'] or '').lower().replace('_', '-') for distribution in found}
    except Exception:  # Python 3.7, or a broken distribution
        names = set()
    return dict(version='.'.join(map(str, sys.version_info[:3])),
                others=sorted(name for name in names if name.startswith('onedl-') or name == 'mmcv-lite'),
                twice=[item for item in FORKS if {FORKS[item][0], DISTRIBUTIONS.get(item, item)} <= names])


def _setuptools(torch: Any) -> Dict[str, Any]:
    """``pkg_resources``: whether it imports; ``needed``: whether mmengine, or compiling upstream's mmcv, asks for it."""
    with suppress(Exception):
        import_module('pkg_resources')
        return dict(pkg_resources=True, needed=True)
    with suppress(Exception):  # upstream's calls pkg_resources here, the maintained fork does not
        import_module('mmengine.utils').is_installed('pip')
        return dict(pkg_resources=False, needed=False)
    return dict(pkg_resources=False, needed=True)


def _torch(torch: Any) -> Dict[str, Any]:
    """``cuda``, ``hip``: the versions that torch was built for, or None."""
    return dict(cuda=torch.version.cuda, hip=getattr(torch.version, 'hip', None))


def _gpu(torch: Any) -> Dict[str, Any]:
    """``cards``: NVIDIA's GPUs as the driver lists them; ``names``: those that torch sees; ``hidden``: whether a variable hides
    all; ``failure``: what a computation on the first one raises; ``nvcc``, ``compiler``, ``headers``: what compiles mmcv."""
    result = dict(cards=[], names=[], hidden=os.environ.get('CUDA_VISIBLE_DEVICES') in ('', '-1'),
                  nvcc=bool(os.environ.get('CUDA_HOME') or shutil.which('nvcc') or os.path.exists('/usr/local/cuda/bin/nvcc')),
                  compiler=any(map(shutil.which, (os.environ.get('CXX') or 'c++', 'c++', 'g++', 'clang++', 'cl'))),
                  headers=os.path.isfile(os.path.join(sysconfig.get_paths()['include'], 'Python.h')))
    with suppress(OSError, subprocess.SubprocessError):
        listed = subprocess.run(['nvidia-smi', '-L'], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60, check=True)
        lines = listed.stdout.decode(errors='replace').splitlines()
        result['cards'] = [line.split(' (UUID')[0] for line in lines if line.startswith('GPU ')]
    if torch and torch.cuda.is_available():
        try:
            result['names'] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
            (torch.ones(2, device='cuda') * 2).sum().item()
        except Exception as error:
            result['failure'] = first_line(error)
    return result


def _numpy(torch: Any) -> Dict[str, Any]:
    """``torch_error``: what turning an array into a tensor raises."""
    try:
        if torch:
            torch.from_numpy(import_module('numpy').zeros(1)).numpy()
    except Exception as error:
        return dict(torch_error=first_line(error))
    return {}


def _torchvision(torch: Any) -> Dict[str, Any]:
    """``mended``: what the import raises, where the way round it that our tools take works."""
    try:
        return dict(version=import_module('torchvision').__version__)
    except RuntimeError as error:
        import_module('hybrid_mm.compat').mend_torchvision()
        return dict(mended=first_line(error))


def _mmengine(torch: Any) -> Dict[str, Any]:
    """``unsafe``: whether it loads a checkpoint that torch, from 2.6 on, refuses because it asks for a function."""
    if version_numbers(str(torch.__version__)) < (2, 6):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'checkpoint.pth')
        torch.save(dict(state_dict=os.getcwd), path)  # a harmless one
        try:
            import_module('mmengine.runner').CheckpointLoader.load_checkpoint(path, map_location='cpu')
            return dict(unsafe=True)
        except pickle.UnpicklingError:
            return dict(unsafe=False)


def _mmcv(torch: Any) -> Dict[str, Any]:
    """``gpu_error``: what an operator raises on the GPU."""
    nms = import_module('mmcv.ops').nms
    boxes, scores = torch.tensor([[0., 0., 9., 9.], [0., 0., 9., 8.]]), torch.tensor([0.9, 0.8])
    if len(nms(boxes, scores, 0.5)[1]) != 1:
        raise RuntimeError('its nms keeps two boxes that overlap')
    try:
        if torch.cuda.is_available():
            nms(boxes.cuda(), scores.cuda(), 0.5)
    except Exception as error:
        return dict(gpu_error=first_line(error))
    return {}


_MORE: Dict[str, Callable[[Any], Dict[str, Any]]] = {
    'python': _python, 'setuptools': _setuptools, 'torch': _torch, 'gpu': _gpu, 'numpy': _numpy, 'torchvision': _torchvision,
    'mmengine': _mmengine, 'mmcv': _mmcv,
}
