"""The order of a training's batches, so that it can go on in the middle, and what worker processes draw for each."""
import os
import random
import signal
import threading
from functools import partial
from typing import Any, Callable, Iterator, List, Optional, Sequence

import numpy as np
import torch
from mmengine.runner import loops
from torch.utils.data import DataLoader, get_worker_info

_StockIterator: Any = loops._InfiniteDataloaderIterator


class Batches:
    """Stands in front of a loader's batch sampler: passes over the batches that were trained on, without loading them.

    The sampler draws them once more, whatever its kind, for what it keeps from one batch to the next. Each batch takes a seed
    with it, from which a worker process draws its random numbers: which process loads a batch, and what it has loaded before,
    make no difference.

    Args:
        batches: the batch sampler, whose attributes are this one's too.
        seed: that of this process.
    """

    def __init__(self, batches: Any, seed: Sequence[int]) -> None:
        self._batches, self._seed = batches, tuple(seed)
        self.epoch = 0  # or pass through the data
        self.skip = 0  # batches, of the next pass and, if it has fewer, of those that follow
        self.before_next: Optional[Callable[[], None]] = None  # once, when the skipped ones are through

    def __iter__(self) -> Iterator['Batch']:
        skip, self.skip = self.skip, 0
        while True:
            number = -1
            for number, indices in enumerate(self._batches):
                if number >= skip:
                    self._call_once()
                    yield Batch(indices, (*self._seed, self.epoch, number))
            skip -= number + 1
            if skip <= 0 or number < 0:
                break
            self.epoch += 1
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(self.epoch)
        self._call_once()

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def sampler(self) -> Any:
        return getattr(self._batches, 'sampler', None)

    def __getattr__(self, name: str) -> Any:
        if name == '_batches':  # of a copy that is still being built
            raise AttributeError(name)
        return getattr(self._batches, name)

    def _call_once(self) -> None:
        call, self.before_next = self.before_next, None
        if call is not None:
            call()


class Batch(list):
    """The indices of a batch, and numbers that its seed is made of."""

    def __init__(self, indices: Sequence[Any], seed: Sequence[int]) -> None:
        super().__init__(indices)
        self.seed = tuple(seed)

    def __reduce__(self):
        return Batch, (list(self), self.seed)


class EndlessBatches(_StockIterator):
    """The batches of an iteration-based loop; worker processes start with the first batch, not when the loop is built.

    So they have what hooks change before the training, and load no batch that is passed over.
    """

    def __init__(self, dataloader: DataLoader) -> None:
        self._dataloader = dataloader
        self._iterator: Any = None
        self._passes = 0
        self._to_drop = 0

    @property
    def _epoch(self) -> int:  # that of the stock iterator, which counts it and tells the sampler
        return getattr(self._dataloader.batch_sampler, 'epoch', self._passes)

    @_epoch.setter
    def _epoch(self, value: int) -> None:
        self._passes = value
        if isinstance(self._dataloader.batch_sampler, Batches):
            self._dataloader.batch_sampler.epoch = value

    def pass_over(self, count: int) -> None:
        """Begin behind so many batches. mmengine 0.10.7 fetches them all the same, to drop them; it gets nothing as often."""
        self._dataloader.batch_sampler.skip = count
        self._to_drop = 0 if hasattr(_StockIterator, 'skip_iter') else count

    def skip_iter(self, num_iters: int) -> None:
        """What onedl-mmengine calls instead; the batches are passed over already."""

    def __next__(self) -> Any:
        if self._to_drop:
            self._to_drop -= 1
            return None
        if self._iterator is None:
            self._iterator = iter(self._dataloader)
        return super().__next__()


class SeededItems:
    """The samples of a batch, each batch with random numbers of its own in a worker process; see torch's ``__getitems__``."""

    def __init__(self, dataset: Any) -> None:
        self.dataset, self.former = dataset, getattr(dataset, '__getitems__', None)

    def __call__(self, indices: List[Any]) -> List[Any]:
        if isinstance(indices, Batch) and get_worker_info() is not None:
            seed = int(np.random.SeedSequence(indices.seed).generate_state(1)[0])
            torch.default_generator.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
        return self.former(indices) if self.former is not None else [self.dataset[index] for index in indices]


def in_order(loader: DataLoader, seed: Sequence[int]) -> Batches:
    """Put `Batches` in front of a loader's batch sampler, and `SeededItems` in front of its data set."""
    if not isinstance(loader.batch_sampler, Batches):
        # the loader refuses another batch sampler, since its own attributes would disagree; these stay what they are
        loader.__dict__['batch_sampler'] = Batches(loader.batch_sampler, seed)
        loader.dataset.__getitems__ = SeededItems(loader.dataset)
    return loader.batch_sampler


def start_late() -> None:
    """Let iteration-based loops that are built from now on have `EndlessBatches`."""
    loops._InfiniteDataloaderIterator = EndlessBatches


def shield_workers(loader: DataLoader) -> None:
    """Let SIGTERM and SIGUSR1 pass over the loader's worker processes, whose batches the training needs to end its step.

    A signal to all processes of a group or a job reaches them too. They obey their parent alone, which ends so those that
    are left over. To be called before the workers start.
    """
    if loader.num_workers and hasattr(signal, 'sigwaitinfo'):
        loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)


def _start_worker(init_fn: Optional[Callable[[int], None]], worker_id: int) -> None:
    signals = {signal.SIGTERM, signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # of the threads that this one starts, too
    threading.Thread(target=_obey_parent, args=(signals, os.getppid()), daemon=True).start()
    if init_fn is not None:
        init_fn(worker_id)


def _obey_parent(signals: set, parent: int) -> None:
    while signal.sigwaitinfo(signals).si_pid != parent:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
