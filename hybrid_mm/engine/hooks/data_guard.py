"""Samples that cannot be used: refused by name, or skipped and counted."""
from typing import Any, List, Optional, Set

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import all_gather_object, all_reduce
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner

from hybrid_mm.data.guarded_pipeline import guard
from hybrid_mm.data.preflight import check_share
from hybrid_mm.data.tally import Tally, too_many
from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.registry import HOOKS

from ..loops import built_loops, is_by_iterations

_JUDGED = 100  # samples between two validations, at least, before the share is judged


@HOOKS.register_module()
class DataGuardHook(Hook):
    """Name the sample that cannot be read or decoded, or train without it; let boxes and pixels of turned pictures agree.

    What is refused, and how EXIF orientation is treated, is described in `hybrid_mm.data.guarded_pipeline.GuardedPipeline`,
    which this puts around the pipeline of each data set of the run. Works in the stock tools of OpenMMLab as well; there the
    sentence is the last line of a traceback.

    Args:
        samples: ``'stop'`` ends the run at the first faulty sample. ``'skip'`` trains on another one, drawn at random, and
            writes how many were skipped, and which, into the log of every epoch; by iterations, at each validation.
            Evaluation always stops, since a metric of some of the pictures is another metric.
        max_share: with ``'skip'`` the run stops where more than this share of an epoch's samples was skipped, with the
            checkpoint of that epoch written; by iterations, of the samples between validations, 100 or more; or inside of an
            epoch, at twice the share, from 20 skipped samples on.
    """

    # Behind hooks that change the pipeline when an epoch begins, and behind CheckpointHook when it ends.
    priority = 'LOWEST'

    def __init__(self, samples: str = 'stop', max_share: float = 0.01) -> None:
        if samples not in ('stop', 'skip'):
            raise SetupError(f'samples={samples!r} of hybrid_mm.DataGuardHook is not allowed; choose from stop, skip')
        check_share(max_share, 'DataGuardHook')
        self.samples = samples
        self.max_share = max_share
        self._tally: Optional[Tally] = None  # of the training data
        self._reported = self._judged = torch.zeros(3, dtype=torch.int64)  # counts at these times
        self._named: Set[str] = set()
        self._ignored: List[int] = []

    def before_run(self, runner: Runner) -> None:
        # a head may take another number than 255 for pixels without a class
        self._ignored = [255, *{module.ignore_index for module in runner.model.modules()
                                if isinstance(getattr(module, 'ignore_index', None), int)}]
        for split, loop in built_loops(runner):
            if split == 'train':
                self._tally = Tally(loop.dataloader.num_workers, self.max_share)
                self._guard_training(loop)
                restart_workers(loop)
            else:
                guard(loop.dataloader.dataset, f'{split}_dataloader.dataset', ignored=self._ignored)

    def before_train_epoch(self, runner: Runner) -> None:
        self._guard_training(runner.train_loop)  # once more, where a hook has changed the pipeline

    def after_train_epoch(self, runner: Runner) -> None:
        if not is_by_iterations(runner):
            self._report(runner, f'epoch {runner.epoch + 1}')
        elif runner.val_loop is None:
            self._report(runner, f'the iterations up to {runner.iter}')

    def before_val(self, runner: Runner) -> None:
        if self._tally is not None and is_by_iterations(runner):
            self._report(runner, f'the iterations up to {runner.iter}')

    def _guard_training(self, loop: BaseLoop) -> None:
        guard(loop.dataloader.dataset, 'train_dataloader.dataset', self._tally, self.samples == 'skip', self._ignored)

    def _report(self, runner: Runner, where: str) -> None:
        """Log what was skipped since the last report, of all processes; a `SetupError` in each where it is too much."""
        assert self._tally is not None
        counts = self._tally.counts()
        all_reduce(counts)
        seen, skipped, as_stored = (counts - self._reported).tolist()
        self._reported = counts
        if as_stored:
            runner.logger.info(f'{as_stored} of {seen} samples in {where}: pictures loaded as they lie in the file, without the '
                               'turn of their EXIF orientation, as the sizes in their annotations say')
        if self.samples == 'stop':
            return
        texts = [text for texts in all_gather_object(self._tally.texts()) for text in texts] if skipped else []
        fresh = [text for text in dict.fromkeys(texts) if text not in self._named]
        self._named.update(fresh)
        runner.logger.info(f'{skipped} of {seen} samples in {where} skipped{": " if fresh else ""}{shorten(fresh, 20)}')
        seen, skipped, _ = (counts - self._judged).tolist()
        if not is_by_iterations(runner) or seen >= _JUDGED:
            self._judged = counts
            if skipped > self.max_share * seen:
                raise SetupError(too_many(skipped, seen, self.max_share, texts[0] if texts else 'see the log'))


def restart_workers(loop: BaseLoop) -> None:
    """Start the worker processes of an iteration-based loop anew, with the data set as it is now.

    mmengine 0.10 starts them when it builds the loop, before any hook runs. The samples come in the order in which they would
    have come, and torch's generator stays where it is, so that the training's random numbers are those of a run without this.
    """
    batches: Any = getattr(loop, 'dataloader_iterator', None)
    started: Any = getattr(batches, '_iterator', None)
    if not hasattr(started, '_shutdown_workers'):
        return
    started._shutdown_workers()
    loader: Any = loop.dataloader
    loader._iterator = None  # where persistent workers are kept
    sampler = getattr(loader.batch_sampler, 'sampler', loader.sampler)
    if isinstance(sampler, InfiniteSampler):
        sampler.indices = sampler._indices_of_rank()
    for name in ('_aspect_ratio_buckets', '_buckets'):  # of MMDetection's samplers, what the stopped workers would have got next
        for bucket in getattr(loader.batch_sampler, name, ()):
            bucket.clear()
    with torch.random.fork_rng(devices=[]):
        batches._iterator = iter(loader)
