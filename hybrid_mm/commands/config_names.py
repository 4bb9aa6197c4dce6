"""Names in a config and behind ``--cfg-options`` that nothing takes: found before any work, with the nearest that is taken."""
import pydoc
from importlib import import_module
from typing import Any, Callable, FrozenSet, List, Sequence, Tuple

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

import hybrid_mm.registry
from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.names import SHARED, config_keys, is_copy, is_near, nearest, parameters, walk

Takes = Tuple[FrozenSet[str], bool, str]  # names that are taken, whether others are too, and by what

_ROOTS = [registry for registry in vars(mmengine.registry).values() if isinstance(registry, Registry)]
_OURS = [registry for registry in vars(hybrid_mm.registry).values() if getattr(registry, 'scope', None) == 'hybrid_mm']
# What registries and runner take out of a dict before they call its type.
_TAKEN_OUT = {
    # of norms; a ResNet's plugins; deformable and transposed convolutions; and DETR's loss
    'model': ('requires_grad', 'postfix', 'fallback_on_stride', 'deformable_groups', 'scale_factor', 'bg_cls_weight'),
    'transform': ('magnitude_key', ),
    'hook': ('priority', ),
    'weight initializer': ('override', ),
    'optim_wrapper': ('constructor', 'paramwise_cfg'),
    'parameter scheduler': ('convert_to_iter_based', ),
}
_ALWAYS = ('type', '_scope_')
_LOADERS = [f'{split}_dataloader' for split in ('train', 'val', 'test')]
# What takes dicts without a type.
_WITHOUT_TYPE = {
    **{loader: parameters(DataLoader)[0] | {'num_batch_per_epoch'} for loader in _LOADERS},
    'auto_scale_lr': frozenset(('enable', 'base_batch_size')),
    'env_cfg': frozenset(('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit')),
    'env_cfg.mp_cfg': frozenset(('mp_start_method', 'opencv_num_threads')),
    'randomness': parameters(Runner.set_randomness)[0] - {'self'},
}
_DEFAULT_TYPES = {
    'log_processor': ('LogProcessor', ),
    'optim_wrapper': ('OptimWrapper', ),
    'test_cfg': ('TestLoop', ),
    'train_cfg': ('EpochBasedTrainLoop', 'IterBasedTrainLoop'),
    'val_cfg': ('ValLoop', ),
    'visualizer': ('Visualizer', ),
}
_PREFIXES = frozenset(('img', 'img_path', 'img_path2', 'seg', 'seg_map_path', 'depth_map_path', 'ann', 'anno', 'ann_path', 'root',
                       'sub_data_root', 'train', 'val', 'test'))
STOCK_HOOKS = frozenset(('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'))  # the runner's own


def merge_options(cfg: Config, options: dict) -> None:
    """Put ``--cfg-options`` into a config; each has to name what is in it, or what something takes.

    Where a dict has a type, its class says what it takes: the parameters of its constructor, and of those that its ``**kwargs``
    go on to. Where it has none, or its class keeps ``**kwargs`` for others, a new name must only not be like one that is known.

    Raises:
        SetupError: an option names what nothing takes, goes through what has no settings, or changes a variable whose value has
            been put elsewhere already; or two exclude each other.
    """
    existing = {option: _number_of_existing(cfg, option) for option in options}
    for option in options:
        below = next((other for other in options if other.startswith(f'{option}.')), None)
        if below is not None and not isinstance(options[option], dict):
            raise SetupError(f'--cfg-options {option} and {below} exclude each other; leave one out')
        _check_variable(cfg, option)
    cfg.merge_from_dict(options)
    values = cfg.to_dict()
    for option, number in existing.items():
        keys, node = [key for key in option.split('.') if key != '_delete_'], values  # which is gone
        for i, key in enumerate(keys):
            if i >= number and isinstance(node, dict):
                _check_key(node, keys[:i], key, values, f'--cfg-options {option}')
            node = node[int(key) if isinstance(node, list) else key]


def check_arguments(cfg: Config, filename: str = 'the config') -> None:
    """See that types of ours exist and take what a config gives them, wherever it does; the same for what a runner builds.

    Raises:
        SetupError: one does not; the message names the nearest.
    """
    values = cfg.to_dict()
    for path, node in walk(values):
        is_known = '.'.join(path) in _WITHOUT_TYPE or path == ('default_hooks', )
        if isinstance(node, dict) and ('type' not in node if is_known else _is_ours(node.get('type'))):
            for key in node:
                _check_key(node, path, key, values, f'{".".join((*path, key))} in {filename}')


def _number_of_existing(cfg: Config, option: str) -> int:
    """How many of an option's keys lead to something in the config, counted from the first."""
    node: Any = cfg
    keys = option.split('.')
    for i, key in enumerate(keys):
        path = '.'.join(keys[:i])
        if isinstance(node, list):
            if not key.isdigit() or int(key) >= len(node):
                raise SetupError(f'--cfg-options {option} is not allowed, since {path} is a list of {len(node)}; write a number '
                                 f'from 0 to {len(node) - 1} in the place of {key}' if node else
                                 f'--cfg-options {option} is not allowed, since {path} is an empty list; replace it as a whole')
            node = node[int(key)]
        elif not isinstance(node, (dict, Config)):
            raise SetupError(f'--cfg-options {option} is not allowed, since {path}={node!r} has no settings; replace {path} as a '
                             'whole, or in a config of your own')
        elif key not in node:
            return i
        else:
            node = node[key]
    return len(keys)


def _check_variable(cfg: Config, option: str) -> None:
    """Raise a SetupError where an option changes a variable of the config that nothing reads any more."""
    name = option.split('.')[0]
    if name not in cfg or name in config_keys():
        return
    values = cfg.to_dict()
    variable = values[name]
    read = {key: value for key, value in values.items() if key in config_keys()}
    places = [path for path, value in walk(read) if is_copy(value, variable) or path[-1:] == (name, ) and value == variable]
    places = [path for path in places if path[-1] == name] or places
    if places:
        raise SetupError(f'--cfg-options {option} changes nothing: {name} is a variable of the config, and its value has been '
                         f'put into {shorten(map(".".join, places))}; change it there'
                         f'{", or all at once with --data-root FOLDER" if name == "data_root" else ""}')


def _check_key(node: dict, path: Sequence[str], key: str, values: dict, what: str) -> None:
    """Raise a SetupError where what is built from a dict does not take one of its keys.

    Args:
        node: the dict.
        path: keys that lead to it.
        key: of the dict.
        values: the whole config.
        what: names the key in the message.
    """
    if key in _ALWAYS:
        if key == 'type' and _is_ours(node[key]):
            _check_type(node[key], what)
        return
    names, is_open, owner = _takes(node, path, key, values)
    if key in names or 'custom_keys' in path:  # these are parts of parameters' names
        return
    likely = [other for other in {*names, *node} if is_near(key, other) or other == 'type' and is_near(f'{key}s', 'types')]
    near = nearest(key, likely if is_open else names)
    if not path:
        same = ['.'.join(place) for place, _ in walk(values) if place[-1:] == (key, ) and len(place) > 1 and place[0] in names]
        near = shorten(same, 3) if same else near
    if near is not None:
        raise SetupError(f'{what} is unknown to {owner}; the nearest is {near}')
    if not is_open:
        raise SetupError(f'{what} is unknown to {owner}; choose from {", ".join(sorted(names)) or "nothing, it takes none"}')


def _takes(node: dict, path: Sequence[str], key: str, values: dict) -> Takes:
    where, kind = '.'.join(path), node.get('type')
    if not path:
        return (config_keys() | {name for name in node if name != key}) - {'_base_', *SHARED}, False, 'the config'
    if where == 'default_hooks':
        return STOCK_HOOKS, not isinstance(node[key], dict) or 'type' in node[key], where
    if path[-1] == 'data_prefix':  # of a data set, which joins what it knows and leaves the rest
        return _PREFIXES | {name for name in node if name != key}, False, where
    if kind is None and where in _WITHOUT_TYPE:
        return _WITHOUT_TYPE[where], False, where
    names: FrozenSet[str] = frozenset()
    is_open = False
    kinds = [found for name in ([kind] if kind else _DEFAULT_TYPES.get(where, ())) for found in _find(name, values)]
    for found, registry in kinds:
        taken, others = parameters(found)
        names, is_open = names | taken | set(_TAKEN_OUT.get(registry, ())), is_open or others
    if where == 'train_cfg':
        names |= {'by_epoch'}
    return names, is_open or not kinds or 'ema_type' in node, kind if isinstance(kind, str) else getattr(kind, '__name__', where)


def _find(kind: Any, values: dict) -> List[Tuple[Callable, str]]:
    """Classes and functions of a type, and the names of their registries; none where it is known to none."""
    if callable(kind):
        return [(kind, name) for name in _TAKEN_OUT]
    scope, _, name = kind.rpartition('.')
    if '.' in scope:
        found = pydoc.locate(kind)
        return [(found, registry) for registry in _TAKEN_OUT] if callable(found) else []
    scope = scope or values.get('default_scope') or 'mmengine'
    try:
        import_module(f'{scope}.registry')
        registries = [registry for root in _ROOTS for registry in (root.children.get(scope), root) if registry is not None]
        for registry in registries:
            registry.import_from_location()
    except ImportError:  # a library, or what it needs, is not there: the build says so
        return []
    return [(registry.module_dict[name], registry.root.name) for registry in registries if name in registry.module_dict]


def _is_ours(kind: Any) -> bool:
    return f'{kind if isinstance(kind, str) else getattr(kind, "__module__", "")}.'.startswith('hybrid_mm.')


def _check_type(kind: Any, what: str) -> None:
    """Raise a SetupError where there is no type of ours of this name."""
    if isinstance(kind, str) and not any(registry.get(kind) for registry in _OURS):
        names = {f'hybrid_mm.{name}' for registry in _OURS for name in registry.module_dict}
        near = nearest(kind, names)
        raise SetupError(f'{what} is unknown: there is no {kind}; ' + (f'the nearest is {near}' if near else 'choose from '
                                                                       f'{", ".join(sorted(names))}'))
