"""A training that goes on with another schedule than it began with."""
import itertools
from typing import Dict, List, Optional

from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner

from hybrid_mm.engine.schedules import (
    Schedule,
    changes,
    flags_kept,
    missing_options,
    optimizers_of,
    replay,
    restore,
    saved_schedules,
    schedule_of,
)
from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.registry import HOOKS

from ..loops import is_by_iterations


@HOOKS.register_module()
class ResumeScheduleHook(Hook):
    """With ``--resume``, let the schedule and the optimizer's numbers of the config hold, where the checkpoint has others.

    mmengine restores both from the checkpoint. A training of 4 epochs that goes on to 8 runs its added epochs at the last rate
    of the old schedule, and a new learning rate or weight decay is passed over. Here the schedule of the config is entered at
    the place that training has reached: the rates are those of a training that had it from the start. A line of the log says
    what has changed, and the learning rate. Where nothing has changed, everything stays as the checkpoint holds it, bit for bit.

    What a scheduler that goes by a metric, such as ReduceOnPlateauLR, has done cannot be repeated: the rates stay, in proportion
    to the config's. Options that are no numbers, such as ``amsgrad``, stay those of the checkpoint, and the log says so.

    Where an epoch has another number of iterations than before, as data or the size of a batch have changed, the place is that
    of the epochs, and the count of iterations is set to it. An iteration-based training goes by its iterations.

    Args:
        schedule: ``'new'``, that of the config, or ``'old'``, that of the checkpoint, with its optimizer's numbers. With our
            `tools/train.py`: ``--resume-schedule``.

    Raises:
        SetupError: the checkpoint is behind the end of the training; its optimizer is of another kind, or for other groups of
            parameters; the old schedule is to go on, and the config has other schedulers.
    """

    priority = 5  # behind CheckSetupHook, which knows a checkpoint of another network; other hooks read the count of iterations

    def __init__(self, schedule: str = 'new') -> None:
        if schedule not in ('new', 'old'):
            raise SetupError(f"schedule={schedule!r} of hybrid_mm.ResumeScheduleHook is not allowed; choose from 'new', 'old'")
        self.schedule = schedule
        self._fresh: Dict[str, Schedule] = {}  # of the config, by optimizer
        self._saved: Dict[str, Schedule] = {}  # of the checkpoint
        self._epoch_length: Optional[int] = None  # of the training that wrote the checkpoint

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not is_by_iterations(runner):
            checkpoint['meta']['epoch_length'] = len(runner.train_dataloader)
        states = checkpoint.get('param_schedulers') or []
        for state in itertools.chain(*states.values()) if isinstance(states, dict) else states:
            # functions, of OneCycleLR, which torch refuses to load; each scheduler brings its own along
            for key in [key for key, value in state.items() if callable(value)]:
                del state[key]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._fresh = {}
        if not (runner._resume and isinstance(runner._train_loop, BaseLoop) and isinstance(runner.optim_wrapper, OptimWrapper)):
            return
        meta = checkpoint['meta']
        done, end, what = (meta['iter'], runner.max_iters, 'iters') if is_by_iterations(runner) else (
            meta['epoch'], runner.max_epochs, 'epochs')
        if done > end:
            raise SetupError(f'train_cfg.max_{what}={end}, and the checkpoint to resume from has {done} behind it; set '
                             f'train_cfg.max_{what} above that, or begin a new training in another --work-dir')
        optimizers = optimizers_of(runner)
        _check_optimizers(runner, checkpoint.get('optimizer'))
        self._fresh = {name: schedule_of(*parts) for name, parts in optimizers.items()}
        self._saved = saved_schedules(checkpoint, list(optimizers))
        self._epoch_length = meta.get('epoch_length')
        for name, (wrapper, _) in optimizers.items():
            missing = missing_options(wrapper, self._fresh[name], self._saved[name])
            if missing:
                raise SetupError(f'the optimizer of the checkpoint to resume from has no {shorten(missing)}, which '
                                 f'{type(wrapper.optimizer).__name__} of the config needs; resume with the optimizer that it '
                                 'was trained with, or begin a new training with load_from')

    def before_train(self, runner: Runner) -> None:
        if not self._fresh:
            return
        by_iterations = is_by_iterations(runner)
        length = max(runner.iter, 1) if by_iterations else len(runner.train_dataloader)
        moved = [] if by_iterations else self._match_iterations(runner, length)
        found, notes = list(moved), []
        for name, (wrapper, schedulers) in optimizers_of(runner).items():
            fresh, saved = self._fresh[name], self._saved[name]
            prefix = f'{name}: ' if name else ''
            if saved.groups is None:
                notes.append(f'{prefix}The checkpoint has no state of the optimizer, which begins anew.')
            flags = flags_kept(wrapper, fresh, saved)
            if flags:
                notes.append(f'{prefix}The optimizer keeps {", ".join(flags)} of the checkpoint, for which its state is made.')
            differences = changes(wrapper, schedulers, fresh, saved)
            if not (differences or moved or saved.groups is None):
                continue
            if self.schedule == 'old':
                if len(saved.schedulers or ()) != len(schedulers) or any('another' in text for text in differences):
                    raise SetupError(f'the old schedule cannot go on, as param_scheduler of the config has other schedulers than '
                                     f'the checkpoint: {"; ".join(differences)}; resume with those, or with the new schedule')
                found += [prefix + text for text in differences]
                continue
            loaded = [scheduler.__dict__ for scheduler in schedulers]
            replayed = replay(fresh, schedulers, runner.iter, runner.epoch, length)
            at_place = Schedule(fresh.groups, [scheduler.state_dict() for scheduler in schedulers])
            # what schedulers count in attributes of their own is the same then
            differences = [text for text in differences if text in changes(wrapper, schedulers, at_place, saved)]
            if differences or moved or saved.groups is None:
                found += [prefix + text for text in differences]
                if restore(wrapper, schedulers, fresh, saved, replayed):
                    notes.append(f'{prefix}What a scheduler has done by a metric is kept.')
            else:
                for scheduler, state in zip(schedulers, loaded):
                    scheduler.__dict__ = state
        self._fresh = {}
        self._say(runner, found, notes)

    def _match_iterations(self, runner: Runner, length: int) -> List[str]:
        """Set the count of iterations to where the epochs are, if an epoch was of another length."""
        epoch, done = runner.epoch, runner.iter
        before = self._epoch_length
        if before is None:  # of another project: such a checkpoint is mostly of the end of an epoch
            before = done // epoch if epoch and done % epoch == 0 else length
        if before == length or not done:
            return []
        loop = runner.train_loop
        loop._iter = epoch * length  # an epoch of another length starts anew, see RandomStateHook
        runner.optim_wrapper.initialize_count_status(runner.model, loop._iter, loop.max_iters)
        return [f'iterations in an epoch {before} -> {length}, so that iteration {done} is now iteration {loop._iter}']

    def _say(self, runner: Runner, found: List[str], notes: List[str]) -> None:
        rates = ', '.join(f'{wrapper.param_groups[-1]["lr"]:.6g}' for wrapper, _ in optimizers_of(runner).values())
        place = f'iteration {runner.iter}' if is_by_iterations(runner) else f'epoch {runner.epoch}, iteration {runner.iter}'
        if found:
            way = ('the schedule of the config is entered' if self.schedule == 'new' else
                   "the schedule of the checkpoint goes on, by schedule='old',")
            notes.insert(0, f'The config is not that of the checkpoint: {"; ".join(found)}. At {place} {way} with the learning '
                         f'rate {rates}.')
        done, end = (runner.iter, runner.max_iters) if is_by_iterations(runner) else (runner.epoch, runner.max_epochs)
        if done >= end:
            notes.append(f'The training has reached its end, {place}; there is nothing to train. For more, set a higher '
                         f'train_cfg.max_{"iters" if is_by_iterations(runner) else "epochs"}.')
        for note in notes:
            runner.logger.warning(note)


def _check_optimizers(runner: Runner, saved: Optional[dict]) -> None:
    """See that each optimizer can take the state of its like in a checkpoint."""
    if saved is None:
        return
    for name, (wrapper, _) in optimizers_of(runner).items():
        state = saved.get(name) if name else saved
        if state is None or 'param_groups' not in state:
            raise SetupError(f'optim_wrapper of the config has other optimizers than the checkpoint to resume from, which has '
                             f'{shorten(saved) or "none"}; resume with those, or begin a new training with load_from')
        old, new = [[len(group['params']) for group in groups] for groups in (state['param_groups'],
                                                                              wrapper.optimizer.param_groups)]
        if old != new:
            raise SetupError(f'the optimizer of the checkpoint to resume from has {_count(old)}, and that of the config '
                             f'{_count(new)}; resume with the paramwise_cfg and the frozen layers that it was trained with, or '
                             'begin a new training with load_from')


def _count(sizes: List[int]) -> str:
    return f'{len(sizes)} groups of {shorten(sizes)} parameters' if len(sizes) > 1 else f'{sum(sizes)} parameters in one group'
