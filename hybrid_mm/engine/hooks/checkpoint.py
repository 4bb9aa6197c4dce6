"""The best checkpoint, by a metric that another project may not have."""
from typing import Any, Dict, Optional

from mmengine.hooks import CheckpointHook as StockCheckpointHook
from mmengine.runner import Runner

from hybrid_mm.registry import HOOKS


@HOOKS.register_module()
class CheckpointHook(StockCheckpointHook):
    """mmengine's CheckpointHook, which goes on where an evaluation does not give the metric of ``save_best``.

    A project inherits the metric of a config and may evaluate by another. mmengine 0.10.7 then ends the training with a KeyError
    after the first validation; here a warning names the metrics, and no best checkpoint is kept.
    """

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, Any]]) -> None:
        missing = set(self.save_best or ()) - {'auto', *(metrics or ())}
        if metrics and missing:
            runner.logger.warning(
                f'No best checkpoint is kept: default_hooks.checkpoint.save_best names {", ".join(sorted(missing))}, and the '
                f'evaluation gives {", ".join(metrics)}; choose from these')
        else:
            super().after_val_epoch(runner, metrics)
