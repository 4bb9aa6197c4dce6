"""What SeTformer costs, and what its plans say at the start of training, with the default settings."""
import importlib.util
import logging
import sys

import pytest
import torch

from hybrid_mm.backbones import SeTformer
from hybrid_mm.data.drawing import draw_scene
from hybrid_mm.layers.transport.definition import row_entropy
from hybrid_mm.layers.transport.plain import plan

logging.getLogger('mmengine').setLevel(logging.ERROR)


def load(root, path):
    spec = importlib.util.spec_from_file_location(path.replace('/', '_'), root / f'{path}.py')
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize('arch, layers, transport_49, transport_196, dense_layers, dense_transport_49', [
    ('mini', 2.09, 0.21, 0.79, 42.7, 4.3),
    ('tiny', 3.33, 0.30, 1.14, 67.9, 6.1),
    ('small', 4.70, 0.34, 1.34, 95.9, 7.0),
    ('base', 8.35, 0.46, 1.78, 170.3, 9.3),
])
def test_multiply_adds_at_classifier_and_detector_size(
        root, arch, layers, transport_49, transport_196, dense_layers, dense_transport_49):
    count = load(root, 'benchmarks/setformer_cost').count
    classifier = 1000 * SeTformer.arch_settings[arch]['channels'][-1]

    # Sinkhorn's iterations count apart
    _, counted, transport, _ = count(arch, 49, (224, 224), iterations=1)
    assert (counted + classifier) / 1e9 == pytest.approx(layers, abs=0.006)
    assert transport / 1e9 == pytest.approx(transport_49, abs=0.006)
    assert count(arch, (196, 196, 196, 49), (224, 224), iterations=1)[2] / 1e9 == pytest.approx(transport_196, abs=0.006)

    _, counted, transport, _ = count(arch, 49, (800, 1280), iterations=1)
    assert counted / 1e9 == pytest.approx(dense_layers, abs=0.06)
    assert transport / 1e9 == pytest.approx(dense_transport_49, abs=0.06)


def test_plans_tell_tokens_apart_from_the_first_step(root):
    images = [torch.tensor(draw_scene(0, 'train', i, (192, 256)).image).float() for i in range(2)]
    x = torch.stack([(image - 116) / 58 for image in images]).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    net = SeTformer('mini').eval()
    logging.disable(logging.INFO)
    net.init_weights()
    logging.disable(logging.NOTSET)

    with torch.no_grad():
        stages = load(root, 'benchmarks/setformer_entropy').features(net, x)
        layer = net.stages[0][0].attn
        entropies = [
            row_entropy(plan(*block, layer.similarity, layer.iterations)).mean() for blocks in stages for block in blocks]
    assert len(entropies) == 18
    assert max(entropies) <= 0.9
