"""`hybrid_mm.deploy.optimise`: the same outputs with fewer operations, and one sentence where it is used for something else."""
import copy

import pytest
import torch
from backbones.features import BACKBONES
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import hybrid_mm.deploy.packed as packed
from hybrid_mm.deploy import optimise
from hybrid_mm.errors import SetupError

# BatchNorm layers that stay: behind a sum (grid_norm of H-MHSA), behind ParC or a sum in front of it
LEFT = {'TransCNN': 3, 'ParCResNet': 2, 'ParCMobileNetV2': 6, 'ParCNet': 5}
HALF = 0.03  # of the largest value of an output, with weights and maps in bfloat16


def randomise(network):
    """Weights and statistics that no fault passes unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
        for norm in network.modules():
            if isinstance(norm, _BatchNorm):
                norm.running_mean.normal_(0, 0.5, generator=generator)
                norm.running_var.uniform_(0.5, 2, generator=generator)
                if norm.affine:
                    norm.weight.uniform_(0.5, 1.5, generator=generator)
                    norm.bias.normal_(0, 0.5, generator=generator)
    return network


def norms(network):
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def deviation(network, other, image):
    with torch.no_grad():
        outputs, wanted = other(image), network(image)
    assert [(o.shape, o.dtype) for o in outputs] == [(w.shape, w.dtype) for w in wanted]
    assert all(output.is_contiguous() for output in outputs)
    return max(((o - w).abs().max() / w.abs().max()).item() for o, w in zip(outputs, wanted))


def stack(*layers):
    return randomise(nn.Sequential(*layers)).eval()


@pytest.mark.parametrize('name', BACKBONES)
def test_backbones_give_the_same_at_all_sizes(name):
    network = randomise(MODELS.build(copy.deepcopy(BACKBONES[name])))  # in training mode
    state, learns = copy.deepcopy(network.state_dict()), [parameter.requires_grad for parameter in network.parameters()]
    ready = optimise(network)
    assert network.training and all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert learns == [parameter.requires_grad for parameter in network.parameters()] and not ready.training
    assert norms(ready) == LEFT.get(name, 0) and isinstance(ready, type(network))
    network.eval()
    for shape in ((1, 3, 64, 64), (2, 3, 97, 131), (1, 3, 128, 96), (1, 3, 64, 64)):
        assert deviation(network, ready, torch.randn(shape)) < 1e-5


@pytest.mark.parametrize('name', ['TransCNN', 'HATNet', 'ParCNet', 'SeTformer', 'GLiT, dense'])
def test_half_precision_is_near(name):
    network = randomise(MODELS.build(copy.deepcopy(BACKBONES[name]))).eval()
    ready = optimise(network, 'bfloat16', size=(96, 96))
    assert 0 < deviation(network, ready, torch.randn(2, 3, 64, 96)) < HALF
    assert all(p.dtype == torch.bfloat16 for module in ready.modules() if isinstance(module, nn.Conv2d)
               for p in module.parameters())


@pytest.mark.parametrize('host', [
    dict(type='mmdet.ResNet', depth=18, norm_eval=True), dict(type='mmpretrain.MobileNetV2', widen_factor=0.25),
    dict(type='mmpretrain.RegNet', arch='regnetx_400mf')])
def test_stock_backbones(host):
    network = randomise(MODELS.build(host))
    network.eval()  # returns nothing
    for memory_format in ('auto', 'channels_last'):
        ready = optimise(network, memory_format=memory_format)
        assert norms(network) > 15 and norms(ready) == 0
        assert deviation(network, ready, torch.randn(2, 3, 65, 96)) < 1e-5


class Branches(nn.Module):
    """Norms that must stay, each for a reason of its own, if it is chosen."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.other = nn.Conv2d(3, 3, 1, padding=int(kind == 'padded')), nn.BatchNorm2d(3)

    def forward(self, x):
        if self.kind == 'convolution read twice':
            y = self.conv(x)
            return self.norm(y) + y
        if self.kind == 'two norms':
            return self.norm(self.conv(x)) + self.other(self.conv(x.relu()))
        if self.kind == 'norm read twice':
            y = self.norm(x)
            return self.second(y) + y
        if self.kind == 'returned':
            y = self.conv(x)
            return self.norm(y), y
        return self.second(self.norm(x))  # padded


@pytest.mark.parametrize('kind, left', [
    ('convolution read twice', 1), ('two norms', 2), ('norm read twice', 1), ('returned', 1), ('padded', 1)])
def test_norms_stay_where_folding_would_not_be_exact(kind, left):
    network = randomise(Branches(kind)).eval()
    ready = optimise(network)
    assert norms(ready) == left + (kind != 'two norms')  # `other` does not run
    image = torch.randn(2, 3, 9, 7)
    torch.testing.assert_close(ready(image), network(image))


@pytest.mark.parametrize('layers', [
    [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 2, groups=2, bias=False)],
    [nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=False), nn.BatchNorm2d(6, affine=False)],
    [nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)],
    [nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6)]])
def test_kinds_of_convolutions(layers):
    network = stack(*layers)
    ready = optimise(network, size=(16, 16))
    assert norms(ready) == 0
    image = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(ready(image), network(image))


def test_norms_and_layers_that_somebody_listens_to_stay():
    network = stack(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.SiLU())
    seen = []
    network[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert norms(optimise(network)) == 1
    shared = stack(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    shared[2].weight = shared[0].weight
    assert norms(optimise(shared)) == 1  # another layer has the weight


@pytest.mark.skipif(not packed.is_available(), reason='a build of torch without oneDNN')
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('act', [nn.SiLU(), nn.GELU(), nn.GELU('tanh'), nn.ReLU(), nn.ReLU6(), nn.Hardswish()])
def test_packed_products_with_activations(act, dtype):
    network = stack(nn.Linear(8, 16), act, nn.Linear(16, 8)).to(dtype)
    flow = packed.Flow()
    ready = copy.deepcopy(network)
    flow.run(ready, ready, torch.randn(2, 5, 8, dtype=dtype))
    packed.pack(ready, flow)
    assert [type(layer).__name__ for layer in ready] == ['_Linear', 'Identity', '_Linear']
    for shape in ((2, 5, 8), (7, 8), (0, 8), (1, 3, 4, 8)):
        x = torch.randn(shape, dtype=dtype) * 3
        close = dict(rtol=0, atol=1e-5) if dtype == torch.float32 else dict(rtol=0.02, atol=0.02)
        with torch.no_grad():
            torch.testing.assert_close(ready(x), network(x), **close)
    with torch.no_grad():  # packed weights follow a change
        ready[0].weight.mul_(2)
        network[0].weight.mul_(2)
        torch.testing.assert_close(ready(x), network(x), **close)


def test_no_training_and_no_state_dict():
    network = MODELS.build(copy.deepcopy(BACKBONES['HATNet']))
    ready = optimise(network)
    assert ready.eval() is ready
    cannot = r'^HATNet is made ready for inference by hybrid_mm.deploy.optimise and cannot be trained; train the network it was'
    for train in (ready.train, ready.requires_grad_, lambda: ready(torch.zeros(1, 3, 64, 64, requires_grad=True))):
        with pytest.raises(SetupError, match=cannot):
            train()
    for load in (ready.load_state_dict, nn.Sequential(ready).load_state_dict):
        with pytest.raises(SetupError, match='so that it takes no state dict; load it into the network'):
            load(network.state_dict())
    with pytest.raises(SetupError, match='ready for inference already'):
        optimise(ready)
    other = copy.deepcopy(ready)
    image = torch.randn(1, 3, 64, 64)
    for a, b in zip(ready(image), other(image)):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('arguments, message', [
    (dict(dtype='int8'), "dtype='int8' is not allowed; choose from None, bfloat16, float16"),
    (dict(memory_format='nhwc'), "memory_format='nhwc' is not allowed; choose from auto, channels_last, contiguous"),
    (dict(size=(8, 8)), 'HATNet does not run on a picture of 8x8 pixels: the image has 8x8 pixels')])
def test_bad_arguments(arguments, message):
    with pytest.raises(SetupError) as error:
        optimise(MODELS.build(copy.deepcopy(BACKBONES['HATNet'])), **arguments)
    assert str(error.value).startswith(message)
