"""Random numbers and an order of the data that survive an interruption."""
import random
from typing import List, Optional

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from hybrid_mm.registry import HOOKS

from ..loops import is_by_iterations
from .batches import Batches, EndlessBatches, in_order, start_late


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Let an interrupted and resumed training go on with the random numbers and the data of an uninterrupted one.

    Each checkpoint takes the state of torch's, numpy's and Python's generators, of all processes, and ``--resume`` puts it
    back. A checkpoint from the middle of an epoch says how many batches are through; they are passed over without being
    loaded, in an iteration-based training as well. Validation leaves the training's random numbers as they were. With
    ``num_workers`` above 0, the random numbers of a batch depend on the seed, the epoch and the number of the batch alone, not
    on which worker process loads it, after what, or how many there are.

    On a CPU both runs then end with the same weights, bit for bit. The number of processes has to be the same, and the
    sampler's order a function of its seed and the epoch, as of all of mmengine and its siblings but ``CustomSampleSizeSampler``.
    The sampler's seed is in the checkpoint too, for trainings without ``randomness.seed``.
    """

    # Just in front of CheckpointHook (90), which saves in the main process alone: all hand in their states before.
    priority = 89

    def __init__(self) -> None:
        start_late()
        self._states: Optional[List[dict]] = None   # of all processes, as of now
        self._resumed: Optional[List[dict]] = None  # from a checkpoint, still to be put back
        self._before_val: dict = {}
        self._position: dict = {}  # of a checkpoint
        self._batches: Optional[Batches] = None  # None before the training, and where the loader has no batch sampler
        self._done = 0    # batches of this epoch; in an iteration-based training the iteration says it
        self._offset = 0  # of those, the ones before the interruption

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        self._resumed = checkpoint.get('random_states')
        self._position = checkpoint.get('position', {})

    def before_train(self, runner: Runner) -> None:
        loader, position = runner.train_dataloader, self._position
        if runner.iter == 0:  # load_from: the weights of another training, not its random numbers
            self._resumed, position = None, {}
        elif self._resumed is None or len(self._resumed) != runner.world_size:
            runner.logger.warning('The checkpoint has no random states for this number of processes; the training goes '
                                  'on with other random numbers than without the interruption.')
            self._resumed = None
        endless = getattr(runner.train_loop, 'dataloader_iterator', None)  # of an iteration-based loop
        if loader.batch_sampler is None or not isinstance(endless, (EndlessBatches, type(None))):
            runner.logger.warning('This train_dataloader, without batch_size or in a loop of its own, does not let an '
                                  'interrupted training go on exactly.')
            return
        self._batches = in_order(loader, (runner.seed, runner.rank))
        self._batches.before_next = self._put_back
        if position.get('sampler_seed') is not None:
            self._batches.sampler.seed = position['sampler_seed']
        if endless is not None:
            endless.pass_over(runner.iter)
        elif position.get('batch'):
            self._go_on(runner, self._batches, position['batch'], position['batches'])

    def before_train_epoch(self, runner: Runner) -> None:
        if self._batches is None:
            self._put_back()
        elif not is_by_iterations(runner):
            self._batches.epoch = runner.epoch
            if not self._offset:  # the data loader draws a seed when an epoch begins, so before that
                self._put_back()

    def before_train_iter(self, runner: Runner, **kwargs) -> None:
        self._states = None

    def after_train_iter(self, runner: Runner, batch_idx: int, **kwargs) -> None:
        self._done = batch_idx + 1
        if any(_saves_now(hook, runner) for hook in runner.hooks if isinstance(hook, CheckpointHook)):
            self.take_states()

    def after_train_epoch(self, runner: Runner) -> None:
        self._done = self._offset = 0
        self.take_states()

    def before_val(self, runner: Runner) -> None:
        self._before_val = get_state()
        # the best checkpoint is saved after validation; one that comes first after resuming is where the checkpoint was
        self._states = self._resumed or all_gather_object(self._before_val)

    def after_val(self, runner: Runner) -> None:
        set_state(self._before_val)

    def take_states(self) -> None:
        """Take the states of all processes, which call this together, for the checkpoint that the main process saves next."""
        self._states = self._resumed or all_gather_object(get_state())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._states is not None:
            checkpoint['random_states'] = self._states
        if self._batches is not None:
            seed = getattr(self._batches.sampler, 'seed', None)
            checkpoint['position'] = dict(
                batch=0 if is_by_iterations(runner) else self._done,
                batches=len(self._batches),
                sampler_seed=seed if isinstance(seed, int) else None)

    def _go_on(self, runner: Runner, batches: Batches, done: int, total: int) -> None:
        """Let the first epoch of an epoch-based training begin behind the batches that are through."""
        if total != len(batches):
            runner.logger.warning(f'The checkpoint was saved behind {done} of {total} batches of its epoch, which now has '
                                  f'{len(batches)}; the epoch starts anew.')
            return
        runner.logger.info(f'The epoch goes on behind {done} of {total} batches.')
        batches.skip = self._offset = self._done = done
        run_iter = runner.train_loop.run_iter
        runner.train_loop.run_iter = lambda idx, data_batch: run_iter(idx + self._offset, data_batch)

    def _put_back(self) -> None:
        if self._resumed is not None:
            set_state(self._resumed[get_rank()])
            self._resumed = None


def _saves_now(hook: CheckpointHook, runner: Runner) -> bool:
    return not hook.by_epoch and (
        hook.every_n_train_iters(runner, hook.interval, hook.save_begin) or hook.is_last_train_iter(runner))


def get_state() -> dict:
    """State of all generators of this process, in tensors and plain values, which load with ``weights_only=True``."""
    _, keys, position, has_gauss, gauss = np.random.get_state()
    state = dict(
        torch=torch.get_rng_state(),
        numpy=(keys.tolist(), position, has_gauss, gauss),
        python=random.getstate())
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_state(state: dict) -> None:
    keys, *rest = state['numpy']
    torch.set_rng_state(state['torch'].cpu())  # resuming on a GPU loads all tensors there
    np.random.set_state(('MT19937', np.array(keys, dtype=np.uint32), *rest))
    random.setstate(state['python'])
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())
