"""What today's torch needs from the OpenMMLab stack: one function a breakage, each idle where nothing is broken.

Written against torch 2.13 with mmengine 0.10.7, mmcv 2.1.0, mmdet 3.3.0, mmsegmentation 1.2.2 and mmpretrain 1.2.0, and
with the maintained forks of the five, onedl-mmengine 0.10.12 and those that go with it.
"""
import importlib
import sys
from typing import Any

_torchvision_schemas: Any = None  # see `mend_torchvision`
_ALLOWED_METHODS = ('min', 'max', 'current', 'mean')  # what mmengine's HistoryBuffer stores of itself in a checkpoint


def allow_training_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)`` read mmengine's training checkpoints.

    From torch 2.6 loading refuses every global that is not on its list, and a training checkpoint of mmengine names a few:
    its HistoryBuffer, numpy's scalars and arrays, and `builtins.getattr` (open-mmlab/mmengine#1655). The real `getattr`
    would hand a hostile file the whole interpreter, so the name stands for a function that answers only for the methods
    that a HistoryBuffer stores. Does nothing below torch 2.6 and without mmengine.
    """
    import torch
    if not hasattr(torch.serialization, 'add_safe_globals') or _version(torch.__version__) < (2, 6):
        return
    try:
        from mmengine.logging import HistoryBuffer
    except ImportError:
        return
    import numpy as np

    def history_getattr(owner, name):
        if owner is HistoryBuffer and name in _ALLOWED_METHODS:
            return getattr(owner, name)
        raise AttributeError(f'a checkpoint asks for attribute {name!r} of {owner!r}, which only HistoryBuffer of mmengine '
                             f'may give, and of it only {", ".join(_ALLOWED_METHODS)}')

    def with_name(kind):
        # onedl-mmengine allows some of these kinds while it loads, and afterwards takes them off the list, ours too; it leaves
        # pairs, which are not equal to what it added
        return kind, f'{kind.__module__}.{kind.__qualname__}'

    scalar, reconstruct = np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]
    dtypes = [type(np.dtype(name)) for name in ('float32', 'float64', 'int32', 'int64', 'uint32', 'bool')]
    allowed = [with_name(kind) for kind in (HistoryBuffer, np.ndarray, np.dtype, *dtypes)]
    allowed.append((history_getattr, 'builtins.getattr'))
    # numpy 1 wrote its functions under numpy.core, numpy 2 writes them under numpy._core
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed += [(scalar, f'{module}.scalar'), (reconstruct, f'{module}._reconstruct')]
    torch.serialization.add_safe_globals(allowed)


def find_configs_of_forks() -> None:
    """Let a config inherit from ``mmseg::`` where onedl-mmsegmentation is installed.

    mmengine, its fork too, looks the scope up in a table of distributions, which knows mmsegmentation alone, and says that it
    is not installed. A name that is no distribution's is taken for a module, as it is for the forks of mmdet and mmpretrain.
    Does nothing where upstream's mmsegmentation is installed, or no mmseg.
    """
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    from mmengine.config.utils import MODULE2PACKAGE
    try:
        version('mmsegmentation')
    except PackageNotFoundError:
        if find_spec('mmseg') is not None:
            MODULE2PACKAGE['mmseg'] = 'mmseg'


def mend_torchvision() -> None:
    """Make torchvision importable beside a torch that its native operators were not built for.

    A CUDA build of torchvision beside a CPU torch dies on import with "operator torchvision::nms does not exist", and with
    it mmdet, mmpretrain and mmengine's Runner. Defining the two operators' schemas lets the import pass; calling them still
    raises, and OpenMMLab uses mmcv's operators. Does nothing where torchvision is absent, or imports as it is.
    """
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError as error:
        if 'torchvision::nms' not in str(error):
            raise
        import torch
        global _torchvision_schemas  # the definitions live as long as the object
        _torchvision_schemas = torch.library.Library('torchvision', 'DEF')
        for name in ('nms', 'qnms'):
            _torchvision_schemas.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        for name in [name for name in sys.modules if name.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        importlib.import_module('torchvision')


def flush_denormals() -> None:
    """Flush denormal numbers to zero on a machine without a GPU.

    AdamW's second moments and small gradients become denormal, which CPUs compute some twenty times slower. The mode belongs
    to a thread and is inherited when the thread is made, so call this before the first parallel operation of torch. Does
    nothing where a GPU is present.
    """
    import torch
    if not torch.cuda.is_available():
        torch.set_flush_denormal(True)


def keep_freed_memory() -> None:
    """Let the C library keep the memory that torch frees, on a Linux machine without a GPU.

    glibc gives a large block back to the system when it is freed, and each iteration of a training then pays for the same
    pages again: about 80,000 page faults a step of TransCNN small at 4 x 192x256, a sixth of its time. Does nothing where
    a GPU is present or the C library is another one.
    """
    import ctypes

    import torch
    if torch.cuda.is_available():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
    mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap, too
    mallopt(M_TRIM_THRESHOLD, -1)  # and the heap never shrinks
    mallopt(M_TOP_PAD, 1 << 26)


def _version(text: str) -> tuple:
    return tuple(int(part) for part in text.split('+')[0].split('.')[:2])
