"""One record of a test, however many processes ran it."""
from mmengine.dist import master_only
from mmengine.hooks import LoggerHook as StockLoggerHook

from hybrid_mm.registry import HOOKS


@HOOKS.register_module()
class LoggerHook(StockLoggerHook):
    """mmengine's LoggerHook, of which only the first process writes the metrics of a test.

    In mmengine 0.10.7 every process writes them to the same file at the same time. The measured seconds differ from
    process to process, so the longer text can stay behind the shorter one and the file is no JSON any more.
    """

    @master_only
    def after_test_epoch(self, runner, metrics=None) -> None:
        super().after_test_epoch(runner, metrics)
