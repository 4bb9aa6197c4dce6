"""Our backbones compute what the releases compute."""
import pytest
import torch
from reference.released_weights import GOLDEN, NETWORKS, deviation, image, weights
from torch.nn.functional import linear

from hybrid_mm.checkpoints import convert
from hybrid_mm.registry import MODELS


@pytest.mark.parametrize('name', GOLDEN)
def test_converted_weights_give_the_outputs_of_the_release(name):
    network = NETWORKS[name]
    released = weights(name)
    backbone = MODELS.get(network['family'])(arch=network['arch']).eval()
    backbone.load_state_dict(convert(released, network['family']), strict=True)
    classifier = convert(released, network['family'], head=True)

    with torch.no_grad():
        maps = backbone.double()(image(name))
        logits = linear(maps[-1].mean((2, 3)), *(classifier[f'head.fc.{part}'].double() for part in ('weight', 'bias')))

    outputs = {f'stage{i}': x for i, x in enumerate(maps, start=1)}
    outputs['logits'] = logits
    assert outputs.keys() == network['outputs'].keys()
    for key, golden in network['outputs'].items():
        assert list(outputs[key].shape) == golden['shape']
        assert deviation(outputs[key], golden) <= 1e-9, key
