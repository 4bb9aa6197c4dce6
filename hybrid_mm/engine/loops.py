"""The loops of a run."""
from typing import Iterator, Tuple

from mmengine.runner import BaseLoop, Runner


def built_loops(runner: Runner) -> Iterator[Tuple[str, BaseLoop]]:
    """Split and loop of this run; the others are still configs."""
    for split in ('train', 'val', 'test'):
        loop = getattr(runner, f'_{split}_loop')
        if isinstance(loop, BaseLoop):
            yield split, loop


def is_by_iterations(runner: Runner) -> bool:
    """Whether the training counts iterations, not epochs: mmengine's IterBasedTrainLoop and loops like it."""
    return hasattr(runner.train_loop, 'dataloader_iterator')
