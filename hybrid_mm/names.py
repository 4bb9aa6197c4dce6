"""Names that people write: which one a misspelt one stands for, and which ones a class or function takes.

Needs torch, and mmengine for the keys of a config.
"""
import ast
import functools
import inspect
import pydoc
import re
import textwrap
from typing import Any, Callable, FrozenSet, Iterable, Iterator, Optional, Set, Tuple

from torch import nn

from hybrid_mm.errors import SetupError

# What runners, hooks and the libraries' tools read from a config beside the parameters of mmengine's Runner.
_ALSO_READ = ('_base_', 'activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
              'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'search', 'strategy', 'sync_bn', 'tta_model',
              'tta_pipeline')
# Variables that configs of the libraries share: written anew under another name they have no effect either.
SHARED = ('backend_args', 'crop_size', 'data_root', 'dataset_type', 'metainfo', 'norm_cfg', 'test_pipeline', 'train_pipeline',
          'val_pipeline', 'vis_backends')
_OTHERS = ('models', )  # is in a config of mmseg
_HOLD_DICTS = ('_cfg', '_dataloader', 'default_hooks', '_wrapper', 'model', 'visualizer', 'data_preprocessor')
# Constructors that keep ``**kwargs`` for what they call later.
_CALLED_LATER = {'mmengine.hooks.checkpoint_hook.CheckpointHook.__init__': 'mmengine.runner.Runner.save_checkpoint',
                 'mmengine.hooks.ema_hook.EMAHook.__init__': 'mmengine.model.ExponentialMovingAverage'}


def is_near(name: str, other: str, edits: int = 1) -> bool:
    """Whether ``name`` looks like a misspelt ``other``, of five letters or more: one letter dropped, added, exchanged or swapped
    with its neighbour, in names of ten letters as many as ``edits``; or other capitals.

    Names that differ in a number, in a word that is one letter, such as ``pad_h`` and ``pad_w``, in a word before or behind them,
    or in an underscore there, are two names.
    """
    words, others = name.strip('_').split('_'), other.strip('_').split('_')
    if name == other or re.sub(r'\d', '', name) == re.sub(r'\d', '', other) or others != ['base'] and (
            words[-len(others):] == others or words[:len(others)] == others):
        return False
    if words != others and len(words) == len(others) and all(a == b or len(a) == len(b) == 1 for a, b in zip(words, others)):
        return False
    most = edits if len(other) >= 10 else len(other) >= 5
    return abs(len(name) - len(other)) <= most and _distance(name.lower(), other.lower()) <= most


def nearest(name: str, names: Iterable[str]) -> Optional[str]:
    """The name of ``names`` that ``name`` may stand for; None where in all of them more than half of the letters differ."""
    distance, found = min(((_distance(name.lower(), other.lower()), other) for other in names), default=(1 << 30, ''))
    return found if distance <= max(len(name), len(found)) / 2 else None


def _distance(a: str, b: str) -> int:
    """Letters to drop, add, exchange or swap with a neighbour until one is the other (optimal string alignment)."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a):
        row = [i + 1]
        for j, other in enumerate(b):
            row.append(min(rows[-1][j + 1] + 1, row[j] + 1, rows[-1][j] + (letter != other)))
            if i and j and letter == b[j - 1] and other == a[i - 1]:
                row[-1] = min(row[-1], rows[-2][j - 1] + 1)
        rows.append(row)
    return rows[-1][-1]


@functools.lru_cache(maxsize=None)
def parameters(kind: Any) -> Tuple[FrozenSet[str], bool]:
    """Names that a class or function takes as keywords, and whether it takes others too, which no signature names.

    ``**kwargs`` that only go on to the constructor of a base class, or to one class or function, are followed there, where what
    the constructor gives itself is no longer to be given.
    """
    if not inspect.isclass(kind):
        return _of_call(kind, iter(()))
    owners = [owner for owner in kind.__mro__ if owner is not object and '__init__' in vars(owner)]
    if not owners:  # a dict, a tuple with names and the like are made by __new__
        return frozenset(), kind.__new__ is not object.__new__
    return _of_call(vars(owners[0])['__init__'], iter(owners[1:]), method=True)


def _of_call(function: Callable, bases: Iterator[type], method: bool = False) -> Tuple[FrozenSet[str], bool]:
    """`parameters` of a function, or of a constructor in front of those of its base classes."""
    full_name = f'{getattr(function, "__module__", "")}.{getattr(function, "__qualname__", "")}'
    if function is nn.Module.__init__:  # also one that a library has wrapped; says **kwargs, and refuses them
        return frozenset(), False
    try:
        given = list(inspect.signature(function).parameters.values())[method:]
    except (TypeError, ValueError):
        return frozenset(), True
    names = {p.name for p in given if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    rest = next((p.name for p in given if p.kind is p.VAR_KEYWORD), None)
    if rest is None:
        return frozenset(names), False
    if full_name in _CALLED_LATER:
        return frozenset(names | parameters(pydoc.locate(_CALLED_LATER[full_name]))[0] - {'self'}), False
    call = _taker(function, rest)
    if call is None:
        return frozenset(names), True
    target = call.func
    if isinstance(target, ast.Attribute) and target.attr == '__init__':
        if not isinstance(target.value, ast.Call):  # not super(): called by the name of a class
            return frozenset(names), True
        behind = [argument.id for argument in target.value.args[:1] if isinstance(argument, ast.Name)]  # super(This, self)
        if behind and behind != [function.__qualname__.split('.')[-2]]:
            while next(bases, type(None)).__name__ not in (*behind, 'NoneType'):
                pass
        base = getattr(next(bases, None), '__init__', None)
        taken, is_open = (frozenset(), False) if base is None else _of_call(base, bases, method=True)
        order = [] if base is None else _positional(base)[1:]
    elif isinstance(target, ast.Name) and callable(inspect.unwrap(function).__globals__.get(target.id)):
        taker = inspect.unwrap(function).__globals__[target.id]
        (taken, is_open), order = parameters(taker), _positional(taker)
    else:
        return frozenset(names), True
    passed: Set[Optional[str]] = {keyword.arg for keyword in call.keywords}
    if not any(isinstance(argument, ast.Starred) for argument in call.args):
        passed |= set(order[:len(call.args)])
    return frozenset(names | (taken - passed)), is_open


def _taker(function: Callable, rest: str) -> Optional[ast.Call]:
    """The one call that takes ``**rest`` of a function; None where it is used in another way, or nothing can be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return None
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and any(
        keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == rest for keyword in node.keywords)]
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == rest]
    return calls[0] if len(calls) == len(uses) == 1 else None


def _positional(function: Callable) -> list:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


@functools.lru_cache(maxsize=None)
def config_keys() -> FrozenSet[str]:
    """The top-level keys of a config that something reads."""
    from mmengine.runner import Runner  # takes its time, and a backbone alone needs none of it
    return (parameters(Runner)[0] - {'cfg'}) | set(_ALSO_READ)


def check_keys(cfg: Any, filename: str = 'the config') -> None:
    """See that no top-level key of a config is a misspelt one.

    In a Python config each variable is a top-level key, so that a name by itself is no mistake. It is one where it is like a key
    that something reads, or like one of the variables that configs share, if the config has that as well; and nothing else in
    the config has its value, as has what a variable was put into.

    Raises:
        SetupError: one is; the message names the nearest.
    """
    values = cfg.to_dict()
    known = [*config_keys(), *(name for name in SHARED if name in values)]
    for key, value in values.items():
        near = [] if key in known or key in SHARED + _OTHERS else [right for right in known if is_near(key, right, edits=2)]
        right = nearest(key, near)
        if right is None or right.endswith(_HOLD_DICTS) and not isinstance(value, dict) and value is not None:
            continue
        others = {name: other for name, other in values.items() if name not in (key, right)}
        if not any(is_copy(other, value) for _, other in walk(others)):
            raise SetupError(f'{key} in {filename} is a key that nothing reads; the nearest is {right}: write that, or give a '
                             'variable of your own a name that is less like it')


def walk(node: Any, path: Tuple[str, ...] = ()) -> Iterator[Tuple[Tuple[str, ...], Any]]:
    """Each value in a nested one, with the keys and indices that lead to it; first the whole itself."""
    yield path, node
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, part in parts:
        yield from walk(part, (*path, str(key)))


def is_copy(value: Any, variable: Any) -> bool:
    """Whether a value of a config has been put there from a variable: it equals it, and is none of the values that many have,
    such as whole numbers; a text may go on behind the variable's."""
    if isinstance(variable, str):
        return variable != '' and isinstance(value, str) and value.startswith(variable)
    is_special = variable % 1 != 0 if isinstance(variable, float) else isinstance(variable, (dict, list, tuple)) and len(variable)
    return bool(is_special) and isinstance(value, (dict, list, tuple, float)) and value == variable
