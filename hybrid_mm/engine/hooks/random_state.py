"""Random numbers that survive an interruption."""
import itertools
import random
from typing import Any, Callable, Iterable, Iterator, List, Optional

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from hybrid_mm.registry import HOOKS


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Let an interrupted and resumed training go on with the random numbers of an uninterrupted one.

    Each checkpoint takes the state of torch's, numpy's and Python's generators, of all processes, and ``--resume`` puts
    it back. Validation leaves the training's random numbers as they were. On a CPU both runs then end with the same
    weights, bit for bit, provided that ``randomness.seed`` is set, from which the samplers draw the order of the data,
    and that ``num_workers=0``: what worker processes draw is theirs and starts anew.
    """

    # Just in front of CheckpointHook (90), which saves in the main process alone: all hand in their states before.
    priority = 89

    def __init__(self) -> None:
        self._states: Optional[List[dict]] = None   # of all processes, as of now
        self._resumed: Optional[List[dict]] = None  # from a checkpoint, still to be put back
        self._before_val: dict = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._resumed = checkpoint.get('random_states')

    def before_train(self, runner: Runner) -> None:
        if runner.iter == 0:  # load_from: the weights of another training, not its random numbers
            self._resumed = None
        elif self._resumed is None or len(self._resumed) != runner.world_size:
            runner.logger.warning('The checkpoint has no random states for this number of processes; the training goes '
                                  'on with other random numbers than without the interruption.')
            self._resumed = None
        elif hasattr(runner.train_loop, 'dataloader_iterator'):
            # An iteration-based loop draws the batches that were trained on once more before it goes on.
            loop = runner.train_loop
            wrap = _SkipThenCall if hasattr(loop.dataloader_iterator, 'skip_iter') else _call_after
            loop.dataloader_iterator = wrap(loop.dataloader_iterator, runner.iter, self._put_back)

    def before_train_epoch(self, runner: Runner) -> None:
        # The data loader draws a seed when an epoch begins, so before that; an iteration-based loop puts back later.
        if not hasattr(runner.train_loop, 'dataloader_iterator'):
            self._put_back()

    def before_train_iter(self, runner: Runner, **kwargs) -> None:
        self._states = None

    def after_train_iter(self, runner: Runner, **kwargs) -> None:
        if any(_saves_now(hook, runner) for hook in runner.hooks if isinstance(hook, CheckpointHook)):
            self._states = all_gather_object(_get_state())

    def after_train_epoch(self, runner: Runner) -> None:
        self._states = all_gather_object(_get_state())

    def before_val(self, runner: Runner) -> None:
        self._before_val = _get_state()
        self._states = all_gather_object(self._before_val)  # the best checkpoint is saved after validation

    def after_val(self, runner: Runner) -> None:
        _set_state(self._before_val)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._states is not None:
            checkpoint['random_states'] = self._states

    def _put_back(self) -> None:
        if self._resumed is not None:
            _set_state(self._resumed[get_rank()])
            self._resumed = None


def _saves_now(hook: CheckpointHook, runner: Runner) -> bool:
    return not hook.by_epoch and (
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin) or hook.is_last_train_iter(runner))


def _call_after(batches: Iterable, count: int, function: Callable[[], None]) -> Iterator:
    """The batches, with a call of the function when the first ``count`` are through."""
    batches = iter(batches)
    yield from itertools.islice(batches, count)
    function()
    yield from batches


class _SkipThenCall:
    """The batches of onedl-mmengine, whose loop passes over those that were trained on without loading them, with a call of the
    function after that."""

    def __init__(self, batches: Any, count: int, function: Callable[[], None]) -> None:
        self._batches, self._function = batches, function

    def __iter__(self) -> '_SkipThenCall':
        return self

    def __next__(self):
        return next(self._batches)

    def skip_iter(self, count: int) -> None:
        self._batches.skip_iter(count)
        self._batches._ensure_iterator()  # draws a seed, as it did when the training began
        self._function()


def _get_state() -> dict:
    """State of all generators of this process, in tensors and plain values, which load with ``weights_only=True``."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    state = dict(
        torch=torch.get_rng_state(),
        numpy=(keys.tolist(), position, has_gauss, gauss),
        python=random.getstate())
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def _set_state(state: dict) -> None:
    keys, *rest = state['numpy']
    torch.set_rng_state(state['torch'].cpu())  # resuming on a GPU loads all tensors there
    np.random.set_state(('MT19937', np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state['python'])
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
