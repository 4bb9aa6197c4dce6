"""A training step in the forms made for speed and memory is that in plain operators: outputs, gradients and statistics."""
import copy

import pytest
import torch
from backbones.features import BACKBONES
from backbones.test_features import build_short

from hybrid_mm.layers import plain


def step(model):
    image = torch.randn(2, 3, 72, 104, dtype=torch.float64, generator=torch.manual_seed(1))
    torch.manual_seed(2)  # of drop path and dropout
    outputs = model(image)
    sum(output.square().mean() for output in outputs).backward()
    numbers = {f'output {i}': output for i, output in enumerate(outputs)}
    numbers.update((f'gradient of {key}', p.grad) for key, p in model.named_parameters() if p.grad is not None)
    return {**numbers, **{key: value for key, value in model.state_dict().items() if 'running' in key}}


@pytest.mark.parametrize('name', BACKBONES)
def test_a_step_equals_that_in_plain_operators(name):
    model = build_short(name).double()
    model.train()  # which some hosts of ParC answer with None
    reference = copy.deepcopy(model)
    found = step(model)
    with plain():
        wanted = step(reference)
    assert found.keys() == wanted.keys()
    largest = max(value.abs().max() for key, value in wanted.items() if key.startswith('gradient'))
    for key, value in wanted.items():
        # gradients that are zero but for rounding, as those of biases in front of a norm, are as exact as the others
        scale = largest if key.startswith('gradient') else value.abs().max()
        assert (found[key] - value).abs().max() <= 1e-10 * scale, key
