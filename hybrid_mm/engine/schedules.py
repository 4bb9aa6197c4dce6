"""Schedules of hyperparameters, apart from the optimizers that they set: where they are after some steps, and what differs."""
import copy
import inspect
from collections import Counter
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.runner import Runner

# Of a scheduler: where it is, not what it is.
_METRIC_STATE = {'best', 'num_bad_epochs', 'cooldown_counter'}
_STATE = {'last_step', '_global_step', '_last_value', 'base_values', 'verbose', *_METRIC_STATE}

_BY_GROUP = ('base_values', '_last_value', 'min_values')  # lists in schedulers, a value a group
_OF_SCHEDULERS = ('initial_', 'max_', 'min_', 'momentum')  # what they add to the groups of an optimizer


class Schedule(NamedTuple):
    """Hyperparameters of the groups of an optimizer, and the states of its schedulers; None for what a checkpoint lacks."""
    groups: Optional[List[dict]]
    schedulers: Optional[List[dict]]


def optimizers_of(runner: Runner) -> Dict[str, Tuple[OptimWrapper, List[_ParamScheduler]]]:
    """Optimizers and schedulers of a runner by name; '' is the name where there is one."""
    several = isinstance(runner.optim_wrapper, OptimWrapperDict)
    wrappers = dict(runner.optim_wrapper.items()) if several else {'': runner.optim_wrapper}
    schedulers = runner.param_schedulers or []
    return {name: (wrapper, schedulers[name] if isinstance(schedulers, dict) else schedulers)
            for name, wrapper in wrappers.items()}


def schedule_of(wrapper: OptimWrapper, schedulers: Sequence[_ParamScheduler]) -> Schedule:
    return Schedule(_options(wrapper.param_groups), [_copy(scheduler.state_dict()) for scheduler in schedulers])


def saved_schedules(checkpoint: dict, names: Sequence[str]) -> Dict[str, Schedule]:
    """What a checkpoint of a runner holds, by the names of `optimizers_of`."""
    schedules = {}
    for name in names:
        optimizer, schedulers = checkpoint.get('optimizer'), checkpoint.get('param_schedulers')
        if name:
            optimizer, schedulers = (optimizer or {}).get(name), (schedulers or {}).get(name)
        groups = None
        if optimizer is not None:
            base = optimizer.get('base_param_settings')
            groups = _options(optimizer['param_groups'] + ([base] if base else []))
        schedules[name] = Schedule(groups, [_copy(state) for state in schedulers] if schedulers is not None else None)
    return schedules


def replay(fresh: Schedule, schedulers: Sequence[_ParamScheduler], iters: int, epochs: int, epoch_length: int) -> List[dict]:
    """Bring schedulers to where they are after so many iterations and epochs.

    They step in the order of mmengine's ParamSchedulerHook, so that the values are those of a training that had this schedule
    from its start, to the last bit. What depends on metrics is not replayed.

    Args:
        fresh: their states, and the groups, before the first step.
        schedulers: of one optimizer; get new states.
        iters: iterations to replay.
        epochs: epochs to replay.
        epoch_length: iterations in an epoch.

    Returns:
        The groups after these steps.
    """
    assert fresh.groups is not None and fresh.schedulers is not None
    firsts, of_group = _distinct(fresh, schedulers)
    stand_in = _Groups([dict(fresh.groups[i]) for i in firsts])
    optimizers = [scheduler.optimizer for scheduler in schedulers]
    for scheduler, state in zip(schedulers, fresh.schedulers):
        by_group = {key: [state[key][i] for i in firsts] for key in _BY_GROUP if key in state}
        scheduler.__dict__ = dict(_copy(state), **by_group, optimizer=stand_in, verbose=False)
    by_iter = [scheduler.step for scheduler in schedulers if not scheduler.by_epoch]
    by_epoch = [scheduler.step for scheduler in schedulers if scheduler.by_epoch]

    def step(count: int) -> None:
        for _ in range(count if by_iter else 0):
            for step in by_iter:
                step()

    done = 0
    for _ in range(epochs):
        length = min(epoch_length, iters - done)
        step(length)
        done += length
        for step_epoch in by_epoch:
            step_epoch()
    step(iters - done)
    for scheduler, state, optimizer in zip(schedulers, fresh.schedulers, optimizers):
        by_group = {key: [scheduler.__dict__[key][k] for k in of_group] for key in _BY_GROUP if key in state}
        scheduler.__dict__.update(by_group, optimizer=optimizer, verbose=state['verbose'])
    return [dict(stand_in.param_groups[k]) for k in of_group]


def _distinct(fresh: Schedule, schedulers: Sequence[_ParamScheduler]) -> Tuple[List[int], List[int]]:
    """The first of the groups that stay alike, and for each group the number of its kind: mmengine makes a group a parameter."""
    assert fresh.groups is not None and fresh.schedulers is not None
    kinds: Dict[str, int] = {}
    firsts, of_group = [], []
    are_known = all(type(scheduler).__module__.startswith('mmengine.') for scheduler in schedulers)
    for i, group in enumerate(fresh.groups):
        values = [state[key][i] for state in fresh.schedulers for key in _BY_GROUP if key in state]
        kind = repr((sorted(group.items()), values)) if are_known else str(i)
        if kind not in kinds:
            kinds[kind] = len(kinds)
            firsts.append(i)
        of_group.append(kinds[kind])
    return firsts, of_group


def restore(wrapper: OptimWrapper, schedulers: Sequence[_ParamScheduler], fresh: Schedule, saved: Schedule,
            replayed: List[dict]) -> bool:
    """Put the groups that `replay` gave into an optimizer that has its state from a checkpoint.

    Where a scheduler goes by metrics, its state and the values that it has brought about are kept, in proportion to a start value
    that has changed.

    Returns:
        Whether there is such a scheduler.
    """
    by_metric = {scheduler.param_name for scheduler in schedulers if getattr(scheduler, 'need_val_args', False)}
    for scheduler, state in zip(schedulers, saved.schedulers or []):
        if getattr(scheduler, 'need_val_args', False):
            scheduler.__dict__.update({key: state[key] for key in _METRIC_STATE | {'last_step'} if key in state})
    for i, group in enumerate(wrapper.param_groups):
        kept = {key: group[key] for key in by_metric if saved.groups is not None}
        ratio = {key: _start(replayed[i], key) / (_start(saved.groups[i], key) or 1) for key in kept} if saved.groups else {}
        for key in [key for key in group if key.startswith(_OF_SCHEDULERS) and key not in replayed[i]]:
            del group[key]
        settable = _settable(wrapper, replayed[i])
        group.update({key: value for key, value in replayed[i].items() if key in settable or key.startswith(_OF_SCHEDULERS)})
        group.update({key: value * ratio[key] for key, value in kept.items()})
    return bool(by_metric)


def changes(wrapper: OptimWrapper, schedulers: Sequence[_ParamScheduler], fresh: Schedule, saved: Schedule) -> List[str]:
    """What the config asks for that the checkpoint was not trained with, such as ``'MultiStepLR.milestones [8] -> [16]'``."""
    assert fresh.groups is not None and fresh.schedulers is not None
    found = []
    if saved.groups is not None:
        for key in _settable(wrapper, fresh.groups[0]):
            pairs = [(_start(old, key), _start(new, key)) for old, new in zip(saved.groups, fresh.groups)]
            pairs = [(old, new) for old, new in pairs if old != new]
            if pairs:  # the last group is mmengine's own, with the values of the config
                more = f' (and {len(pairs) - 1} other groups)' if len(pairs) > 1 else ''
                found.append(f'optimizer.{key} {_text(pairs[-1][0])} -> {_text(pairs[-1][1])}{more}')
    if saved.schedulers is None:
        return found + (['no schedule -> ' + _names(schedulers)] if schedulers else [])
    if len(saved.schedulers) != len(schedulers):
        return [*found, f'{len(saved.schedulers)} schedulers -> {_names(schedulers)}']
    for scheduler, old, new in zip(schedulers, saved.schedulers, fresh.schedulers):
        name, old, new = type(scheduler).__name__, _settings(old), _settings(new)
        if old.keys() != new.keys():
            found.append(f'another scheduler -> {name}')
        else:
            found += [f'{name}.{key} {_text(old[key])} -> {_text(new[key])}' for key in new if old[key] != new[key]]
    return found


def flags_kept(wrapper: OptimWrapper, fresh: Schedule, saved: Schedule) -> List[str]:
    """Options of the optimizer that its saved state is made for, which stay those of the checkpoint, where the config differs."""
    assert fresh.groups is not None
    old, new = (saved.groups or fresh.groups)[0], fresh.groups[0]
    return [f'{key}={old[key]}' for key in _parameters(wrapper)
            if isinstance(new.get(key), bool) and isinstance(old.get(key), bool) and old[key] != new[key]]


def missing_options(wrapper: OptimWrapper, fresh: Schedule, saved: Schedule) -> List[str]:
    """Hyperparameters of the optimizer that the checkpoint's does not have: it is of another kind."""
    assert fresh.groups is not None
    return [key for key in _settable(wrapper, fresh.groups[0]) if saved.groups and key not in saved.groups[0]]


class _Groups:
    """What schedulers need of an optimizer."""

    _global_step = 0  # they warn if an optimizer has not stepped

    def __init__(self, groups: List[dict]) -> None:
        self.param_groups = groups

    def step(self) -> None:
        pass

    step._with_counter = True  # type: ignore[attr-defined]


def _parameters(wrapper: OptimWrapper) -> Sequence[str]:
    """Names of options; other values in the groups are state that some optimizers, such as Prodigy, keep there."""
    parameters = inspect.signature(type(wrapper.optimizer).__init__).parameters
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return [*parameters, *(wrapper.optimizer.defaults if passes_on else ())]


def _settable(wrapper: OptimWrapper, group: dict) -> List[str]:
    """Options with numbers; the others decide on the form of an optimizer's state."""
    return [key for key in _parameters(wrapper) if key in group and _is_numeric(group[key])]


def _is_numeric(value: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in values)


def _start(group: dict, key: str) -> Any:
    """Value of an option before the first step of a scheduler."""
    if key == 'betas' and 'initial_momentum' in group:  # a momentum scheduler sets the first of them
        return (group['initial_momentum'], *group[key][1:])
    value = group.get(f'initial_{key}', group[key])
    return tuple(value) if isinstance(value, list) else value


def _options(groups: Sequence[dict]) -> List[dict]:
    return [{key: copy.deepcopy(value) for key, value in group.items() if key != 'params'} for group in groups]


def _copy(state: dict) -> dict:
    """Of containers alone; the state holds no optimizer."""
    return {key: copy.deepcopy(value) if isinstance(value, (list, dict)) else value for key, value in state.items()}


def _settings(state: dict) -> Dict[str, Any]:
    """What a scheduler is, not where it is."""
    return {key: value for key, value in state.items() if key not in _STATE and not callable(value)}


def _names(schedulers: Sequence[_ParamScheduler]) -> str:
    return ', '.join(type(scheduler).__name__ for scheduler in schedulers) or 'no schedule'


def _text(value: Any) -> str:
    value = sorted(value.elements()) if isinstance(value, Counter) else value
    text = f'{value:.6g}' if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + '...'
