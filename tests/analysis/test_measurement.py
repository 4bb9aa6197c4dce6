"""Time and memory of a piece of work."""
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybrid_mm.analysis import measurement


def test_peak_counts_what_is_held_at_once():
    def step():
        first = torch.empty(1000)
        del first
        second = torch.empty(3000)
        third = torch.empty(2000)
        del second
        return third

    assert measurement.peak_bytes(step) == 4 * 5000


def test_steps_are_measured_in_turn_after_a_warm_up():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in 'ab'}
    times = measurement.in_turn(steps, rounds=3)
    assert calls == list('abababab')
    assert {name: len(values) for name, values in times.items()} == dict(a=3, b=3)


def test_each_round_that_counts_is_told():
    told = []
    times = measurement.in_turn(dict.fromkeys('ab', lambda: None), rounds=2, each_round=told.append)
    assert told == [{name: own[i] for name, own in times.items()} for i in range(2)]


def test_moved_bytes_are_those_of_operators_and_not_of_views():
    x = torch.ones(100, requires_grad=True)

    def step():
        (x.view(10, 10).t() * 2).sum()

    assert measurement.moved_bytes(step) == 4 * (100 + 100 + 100 + 1)  # the product reads and writes, the sum reads and writes


def test_short_steps_run_until_the_time_is_filled(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(time, 'perf_counter', lambda: next(clock))
    calls = []
    assert measurement.seconds(lambda: calls.append(0), at_least=4) == 1
    assert len(calls) == 4


@pytest.mark.parametrize('model', [nn.Linear(3, 2), lambda x: (2 * x, x[:1])])
def test_training_has_a_backward_pass_and_inference_has_none(model):
    x = torch.randn(4, 3, requires_grad=True)
    measurement.run(model, x, train=False)
    assert x.grad is None
    measurement.run(model, x, train=True)
    assert x.grad.abs().sum() > 0


def test_stored_attention_is_softmax_attention():
    q, k, v = torch.randn(3, 2, 4, 5, 8, dtype=torch.float64)
    mask = torch.rand(5, 5) > 0.3
    mask[:, 0] = True
    for attn_mask in (None, mask):
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask)
        torch.testing.assert_close(measurement.stored_attention(q, k, v, attn_mask), expected)
