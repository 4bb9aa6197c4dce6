"""The depthwise convolution whose weights learn faster, against torch's."""
import pytest
import torch
import torch.nn.functional as F

from hybrid_mm.layers.depthwise import DepthwiseConv2d, depthwise_conv2d
from hybrid_mm.layers.tracing import plain

CASES = [((2, 4, 9, 11), (5, 5)), ((2, 4, 9, 11), (3, 7)), ((1, 3, 6, 5), (7, 9)), ((2, 5, 1, 14), (1, 31)),
         ((2, 5, 4, 14), (1, 5)), ((1, 3, 2, 2), (5, 5)), ((1, 3, 3, 3), (7, 7))]


def tensors(shape, kernel, memory_format):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).to(memory_format=memory_format).requires_grad_()
    weight, bias = (torch.randn(shape[1], *rest, dtype=torch.float64, requires_grad=True) for rest in ((1, *kernel), ()))
    return x, weight, bias


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['contiguous', 'channels_last'])
@pytest.mark.parametrize('shape, kernel', CASES, ids=str)
def test_outputs_and_gradients_are_those_of_torch(shape, kernel, memory_format):
    inputs = tensors(shape, kernel, memory_format)
    out = depthwise_conv2d(*inputs)
    expected = F.conv2d(*inputs, padding=(kernel[0] // 2, kernel[1] // 2), groups=shape[1])
    assert 'Depthwise' in out.grad_fn.name()
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(out)
    for found, wanted in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad)):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_gradients_can_be_differentiated():
    inputs = tensors((1, 2, 4, 6), (3, 5), torch.channels_last)
    assert torch.autograd.gradcheck(depthwise_conv2d, inputs)
    assert torch.autograd.gradgradcheck(depthwise_conv2d, inputs)


def test_half_precision_is_as_close_as_that_of_torch():
    torch.manual_seed(0)
    x, layer = torch.randn(1, 8, 20, 20), DepthwiseConv2d(8, 5)

    def gradient():
        layer.zero_grad()
        layer(x).float().square().mean().backward()
        return layer.weight.grad.clone()

    exact = gradient()
    with torch.autocast('cpu', torch.bfloat16):
        error = (gradient() - exact).norm() / exact.norm()
        with plain():
            error_of_torch = (gradient() - exact).norm() / exact.norm()
    assert 0 < error < 1.2 * error_of_torch


@pytest.mark.parametrize('change', [lambda x, w: w.requires_grad_(False), lambda x, w: x.requires_grad_()])
def test_only_what_is_asked_for_is_computed(change):
    x, weight, _ = tensors((1, 2, 6, 6), (5, 5), torch.channels_last)
    x = x.detach()
    change(x, weight)
    out = depthwise_conv2d(x, weight)
    assert out.requires_grad == (x.requires_grad or weight.requires_grad)
    if out.requires_grad:
        out.sum().backward()
        assert x.grad is not None and weight.grad is not None


def test_a_map_narrower_than_half_of_the_kernel_is_torch_s():
    x, weight, bias = tensors((1, 2, 2, 2), (7, 7), torch.channels_last)
    assert 'Depthwise' not in depthwise_conv2d(x, weight, bias).grad_fn.name()


def test_narrow_kernels_and_inference_are_those_of_torch():
    x, weight, bias = tensors((1, 2, 6, 6), (3, 3), torch.channels_last)
    assert 'Depthwise' not in depthwise_conv2d(x, weight, bias).grad_fn.name()
    with plain():
        assert 'Depthwise' not in depthwise_conv2d(*tensors((1, 2, 6, 6), (5, 5), torch.channels_last)).grad_fn.name()


def test_an_even_kernel_is_refused():
    with pytest.raises(ValueError, match='kernel_size=4 is not allowed; choose an odd number, 1 or more'):
        DepthwiseConv2d(3, 4)
