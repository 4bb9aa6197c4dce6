"""The time of a step before a training: it is that of the steps, and leaves random numbers as they were."""
import time

import torch

from hybrid_mm.commands.shared import read_config
from hybrid_mm.engine.pace import seconds_per_step


def test_steps_after_the_first_are_timed_and_random_numbers_stay(in_process, tiny):
    cfg = read_config(tiny('segmentor'))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    start = time.perf_counter()
    seconds = seconds_per_step(cfg, steps=2)
    assert 0 < 2 * seconds < time.perf_counter() - start
    assert torch.equal(torch.rand(3), expected)
    assert list(in_process.iterdir()) == []
