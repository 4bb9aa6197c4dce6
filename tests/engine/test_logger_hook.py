"""The record of a test when several processes run it."""
import json
from types import SimpleNamespace

import pytest
from mmengine.logging import MMLogger

from hybrid_mm.registry import HOOKS


@pytest.mark.parametrize('rank', [0, 1])
def test_the_first_process_alone_writes_the_metrics_of_a_test(rank, tmp_path, monkeypatch):
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: rank)
    runner = SimpleNamespace(
        test_dataloader=[None], log_dir=str(tmp_path), timestamp='now', _log_dir=str(tmp_path), work_dir=str(tmp_path),
        logger=MMLogger('test_logger_hook'),
        log_processor=SimpleNamespace(get_log_after_epoch=lambda *args, **kwargs: ({'accuracy': 0.5}, 'accuracy: 0.5')))
    hook = HOOKS.build(dict(type='hybrid_mm.LoggerHook', out_dir=None))
    hook.json_log_path = 'now.json'

    hook.after_test_epoch(runner)

    written = {path.name: json.loads(path.read_text()) for path in tmp_path.glob('*.json')}
    assert written == ({'now.json': {'accuracy': 0.5}} if rank == 0 else {})
