"""Processes of a search beside each other: each computes on a device of its own, and two find what one finds."""
import time

import pytest
import torch

from hybrid_mm.commands.search import find_checkpoint
from hybrid_mm.commands.shared import load_config
from hybrid_mm.search.settings import build_strategy, read_cost, read_settings, read_space
from hybrid_mm.search.workers import Workers


def device_of_process():
    time.sleep(0.2)  # long enough for the other process to take the next call
    return torch.cuda.current_device() if torch.cuda.is_available() else 0


def test_two_processes_of_a_search_take_two_devices(run_tool, tiny, shapes, tmp_path, monkeypatch, root, device):  # noqa: F811
    if device.type == 'cuda' and torch.cuda.device_count() < 2:
        pytest.skip('needs two GPUs')
    run_tool('search/supernet_train.py', tiny('search'), '--work-dir', tmp_path / 'supernet')
    monkeypatch.setenv('SHAPES', str(shapes))
    monkeypatch.setenv('PYTHONPATH', str(root / 'tests' / 'tools'))  # of the processes, for the probes of the tiny configs
    monkeypatch.syspath_prepend(str(root / 'tests' / 'tools'))
    cfg = load_config(tiny('search'))
    settings, checkpoint = read_settings(cfg), find_checkpoint(str(tmp_path / 'supernet'))
    strategy = build_strategy(settings, read_space(cfg), read_cost(cfg, settings))
    candidates = strategy.propose([]).candidates[:4]

    found = {}
    for processes in (1, 2):
        with Workers(cfg, settings, checkpoint, processes) as workers:
            found[processes] = dict(workers.evaluate(candidates))
            if processes == 2 and device.type == 'cuda':
                calls = [workers._pool.submit(device_of_process) for _ in range(6)]
                assert {call.result() for call in calls} == {0, 1}
    assert found[1].keys() == found[2].keys() == set(candidates)
    for candidate in candidates:
        assert found[1][candidate] == pytest.approx(found[2][candidate], abs=0.1)  # in percent; sums on a GPU have no order
