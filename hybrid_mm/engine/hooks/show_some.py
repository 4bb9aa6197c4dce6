"""Pictures of some of the predictions of a test, where drawing takes longer than predicting."""
from math import ceil
from typing import Any, List, Optional, Tuple

from mmengine.hooks import Hook
from mmengine.runner import Runner

from hybrid_mm.errors import SetupError
from hybrid_mm.registry import HOOKS

_SWITCHES = ('draw', 'enable')  # of MMDetection and MMSegmentation, and of MMPreTrain


@HOOKS.register_module()
class ShowSomeHook(Hook):
    """Draw at most so many pictures of a test, evenly spread over it.

    It switches the visualisation hook of MMDetection, MMSegmentation or MMPreTrain on and off; MMDetection's draws all pictures
    of a test, at a second each where there are hundreds of masks.

    Args:
        at_most: pictures to draw, 1 or more; fewer if they do not divide the batches evenly.
    """

    priority = 'HIGH'  # before the hook that draws

    def __init__(self, at_most: int) -> None:
        if at_most < 1:
            raise SetupError(f'at_most={at_most} is not allowed; choose 1 or more')
        self.at_most = at_most
        self._drawing: List[Tuple[Hook, str]] = []
        self._interval = 1

    def before_test(self, runner: Runner) -> None:
        hooks = [hook for hook in runner.hooks if type(hook).__name__.endswith('VisualizationHook')]
        self._drawing = [(hook, switch) for hook in hooks for switch in _SWITCHES if getattr(hook, switch, False)]
        batches = max(1, self.at_most // ((runner.test_dataloader.batch_size or 1) * runner.world_size))
        self._interval = ceil(len(runner.test_dataloader) / batches)

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch: Optional[Any] = None) -> None:
        for hook, switch in self._drawing:
            setattr(hook, switch, batch_idx % self._interval == 0)

    def after_test(self, runner: Runner) -> None:
        for hook, switch in self._drawing:
            setattr(hook, switch, True)
