"""Registries of scope ``hybrid_mm``, children of mmengine's roots.

mmengine imports this module when a config first names a type that starts with ``hybrid_mm.``, from whatever library the
config runs in. An ImportError raised here would surface as "not in the registry", so it imports mmengine and our own light
modules alone; each registry imports its locations when it is first asked.
"""
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import WEIGHT_INITIALIZERS as MMENGINE_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

from .compat import allow_training_checkpoints, find_configs_of_forks

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope='hybrid_mm',
    locations=['hybrid_mm.backbones', 'hybrid_mm.necks', 'hybrid_mm.plugins', 'hybrid_mm.losses', 'hybrid_mm.search.supernet'])
WEIGHT_INITIALIZERS = Registry(
    'weight initializer',
    parent=MMENGINE_WEIGHT_INITIALIZERS,
    scope='hybrid_mm',
    locations=['hybrid_mm.checkpoints'])
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='hybrid_mm', locations=['hybrid_mm.engine'])
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope='hybrid_mm', locations=['hybrid_mm.evaluation'])
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper', parent=MMENGINE_OPTIM_WRAPPERS, scope='hybrid_mm', locations=['hybrid_mm.engine'])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    'optimizer wrapper constructor',
    parent=MMENGINE_OPTIM_WRAPPER_CONSTRUCTORS,
    scope='hybrid_mm',
    locations=['hybrid_mm.engine'])

# A model of ours is built, hence this module imported, before any checkpoint is read.
allow_training_checkpoints()
find_configs_of_forks()
