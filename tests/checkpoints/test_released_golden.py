"""Our backbones compute what the releases compute."""
import pytest
import torch
import torchvision
from reference.released_weights import GOLDEN, deviation, fill, image, weights
from torch.nn.functional import layer_norm, linear

from hybrid_mm.checkpoints import convert
from hybrid_mm.registry import MODELS


@pytest.mark.parametrize('name', GOLDEN)
def test_converted_weights_give_the_outputs_of_the_release(name):
    network = GOLDEN[name]
    released = weights(name)
    backbone = MODELS.get(network['family'])(network['arch'], **network.get('options', {})).eval()
    backbone.load_state_dict(convert(released, network['family']), strict=True)

    outputs = run(backbone.double(), image(name), network.get('places', {f'stage{i}': i - 1 for i in range(1, 5)}))
    if 'logits' in network['outputs']:
        outputs['logits'] = classify(outputs.pop('last'), convert(released, network['family'], head=True))
    else:
        del outputs['last']
    assert outputs.keys() == network['outputs'].keys()
    for key, golden in network['outputs'].items():
        assert list(outputs[key].shape) == golden['shape']
        assert deviation(outputs[key], golden) <= 1e-9, key


def run(backbone, batch, places):
    """The outputs at their places, maps by number and modules by name, and as 'last' the last output."""
    outputs = {}
    for key, place in places.items():
        if isinstance(place, str):
            # a copy, since activations behind may work in place
            backbone.get_submodule(place).register_forward_hook(
                lambda module, args, out, key=key: outputs.update({key: out.clone()}))
    with torch.no_grad():
        maps = backbone(batch)
    outputs.update({key: maps[place] for key, place in places.items() if isinstance(place, int)}, last=maps[-1])
    return outputs


def classify(x, state_dict):
    """Logits of the map (B, C, H, W), or vector (B, C), with the classifier of an image classifier's state dict."""
    x = x.mean((2, 3)) if x.ndim == 4 else x
    if 'neck.norm.weight' in state_dict:
        norm = (state_dict[f'neck.norm.{part}'].double() for part in ('weight', 'bias'))
        x = layer_norm(x, x.shape[1:], *norm, eps=1e-6)
    return linear(x, *(state_dict[f'head.fc.{part}'].double() for part in ('weight', 'bias')))


@pytest.mark.parametrize('family, arch, network, last', [
    ('ParCResNet', 50, 'resnet50', 'layer4'),
    ('ParCMobileNetV2', 1.0, 'mobilenet_v2', 'features'),
])
def test_without_parc_a_backbone_computes_what_its_baseline_in_torchvision_does(family, arch, network, last):
    theirs = getattr(torchvision.models, network)().eval()
    released = fill({key: tuple(value.shape) for key, value in theirs.state_dict().items()})
    theirs.load_state_dict(released)
    ours = MODELS.get(family)(arch, insert_locations=()).eval()
    ours.load_state_dict(convert(released, family), strict=True)

    batch = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = []
    theirs.double().get_submodule(last).register_forward_hook(lambda module, args, out: expected.append(out))
    with torch.no_grad():
        theirs(batch)
        out = ours.double()(batch)[-1]
    torch.testing.assert_close(out, expected[0], rtol=1e-9, atol=1e-9)
