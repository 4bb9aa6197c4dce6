"""Norm, activation and convolution as one, against the three by themselves."""
import copy

import pytest
import torch
from torch import nn

from hybrid_mm.layers.add_conv import add_conv
from hybrid_mm.layers.depthwise import DepthwiseConv2d
from hybrid_mm.layers.norm_act_conv import IDENTITY, norm_act_conv
from hybrid_mm.layers.tracing import plain

ACTS = [nn.SiLU(), nn.ReLU(), nn.ReLU6(), IDENTITY]
CONVS = {
    'pointwise': lambda: nn.Conv2d(6, 4, 1, bias=False),
    'bias': lambda: nn.Conv2d(6, 4, 1),
    'strided': lambda: nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2),
    'depthwise': lambda: DepthwiseConv2d(6, 5, bias=False),
}


def layers(norm, act, conv):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6) if norm != 'none' else IDENTITY
    if norm is not IDENTITY:
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias), nn.init.uniform_(norm.running_var, 0.5, 2)
        norm.running_mean.normal_()
    return nn.Sequential(norm, act, CONVS[conv]()).double()


def run(net, x, as_one=True):
    net.zero_grad()
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    out = norm_act_conv(x, *net) if as_one else net(x)
    out.square().sum().backward()
    return out, [x.grad, *(p.grad.clone() for p in net.parameters())], out.grad_fn.next_functions[0][0] and out.grad_fn.name()


@pytest.mark.parametrize('conv', CONVS)
@pytest.mark.parametrize('act', ACTS, ids=lambda act: type(act).__name__)
@pytest.mark.parametrize('norm', ['batch', 'running', 'none'])
def test_values_gradients_and_statistics_are_those_of_the_three(norm, act, conv):
    net = layers(norm, act, conv)
    net.train(norm == 'batch')
    x = 3 * torch.randn(2, 6, 7, 8, dtype=torch.float64).to(memory_format=torch.channels_last) + 1
    apart = copy.deepcopy(net)
    out, gradients, name = run(net, x)
    assert 'ActConv' in name or norm == 'none' and act is IDENTITY
    expected, expected_gradients, _ = run(apart, x, as_one=False)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    for found, wanted in zip(gradients, expected_gradients):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    for (key, found), wanted in zip(net.state_dict().items(), apart.state_dict().values()):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0, msg=key)


@pytest.mark.parametrize('norm', ['batch', 'running', 'none'])
def test_gradients_can_be_differentiated(norm):
    net = layers(norm, nn.SiLU(), 'bias').train(norm == 'batch')
    x = torch.randn(2, 6, 3, 2, dtype=torch.float64, requires_grad=True)
    inputs = x, *net.parameters()

    def function(x, *parameters):
        return norm_act_conv(x, *net)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize('momentum, tracks', [(None, True), (0.3, True), (0.1, False)])
def test_running_statistics_count_as_batchnorm_counts(momentum, tracks):
    norm = nn.BatchNorm2d(6, momentum=momentum, track_running_stats=tracks)
    net = nn.Sequential(norm, nn.SiLU(), nn.Conv2d(6, 4, 1))
    apart = copy.deepcopy(net)
    for seed in range(3):
        x = torch.randn(2, 6, 5, 5, generator=torch.Generator().manual_seed(seed))
        run(net, x), run(apart, x, as_one=False)
    for name, value in apart.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, msg=name)


def test_the_input_alone_is_kept():
    net = layers('batch', nn.SiLU(), 'depthwise').float()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        x = torch.randn(2, 6, 16, 16, requires_grad=True)
        norm_act_conv(x, *net)
    maps = [tensor for tensor in kept if tensor.numel() >= x.numel()]
    assert len(maps) == 1 and maps[0].data_ptr() == x.data_ptr()


def test_half_precision_is_as_close_as_that_of_the_three():
    net = layers('batch', nn.SiLU(), 'bias').float()
    x = torch.randn(2, 6, 16, 16)
    exact = run(copy.deepcopy(net), x)[1]
    with torch.autocast('cpu', torch.bfloat16):
        as_one = run(copy.deepcopy(net), x)[1]
        apart = run(copy.deepcopy(net), x, as_one=False)[1]
    for found, torchs, wanted in zip(as_one, apart, exact):
        assert (found - wanted).norm() <= 1.2 * (torchs - wanted).norm() + 1e-6 * wanted.norm()


def listen(net):
    net[1].register_forward_hook(lambda *_: None)


def override(net):
    net[2].forward = net[2].forward


@pytest.mark.parametrize('change', [
    listen, override, lambda net: net.requires_grad_(False), lambda net: nn.utils.parametrizations.weight_norm(net[2])
], ids=['hook', 'own forward', 'frozen', 'parametrized'])
def test_somebody_else_s_layers_run_as_they_are(change):
    net = layers('batch', nn.SiLU(), 'bias').float()
    change(net)
    out = norm_act_conv(torch.randn(2, 6, 4, 4), *net)
    assert out.grad_fn is None or 'ActConv' not in out.grad_fn.name()
    with plain():
        other = layers('batch', nn.SiLU(), 'bias').float()
        assert 'ActConv' not in norm_act_conv(torch.randn(2, 6, 4, 4), *other).grad_fn.name()


def test_one_value_a_channel_is_batchnorm_s_own_error():
    with pytest.raises(ValueError, match='Expected more than 1 value per channel'):
        norm_act_conv(torch.randn(1, 6, 1, 1), *layers('batch', nn.SiLU(), 'bias').float())


def test_a_sum_in_front_of_a_convolution():
    torch.manual_seed(0)
    a, b = (torch.randn(2, 6, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    conv = nn.Conv2d(6, 3, 1).double()
    out = add_conv(a, b, conv)
    assert 'AddConv' in out.grad_fn.name()
    inputs, grad = (a, b, *conv.parameters()), torch.randn_like(out)
    torch.testing.assert_close(out, conv(a + b))
    for found, wanted in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(conv(a + b), inputs, grad)):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradgradcheck(lambda a, b, *_: add_conv(a, b, conv), inputs)
