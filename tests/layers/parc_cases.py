"""Layers, maps and comparisons for the tests of ParC."""
import torch

from hybrid_mm.layers import ParC2d

PRECISE = 1e-10


def layer_of(channels=2, axis='H', base_size=5, seed=0, **kwargs):
    """A float64 layer with values of the order of 1 everywhere."""
    torch.manual_seed(seed)
    layer = ParC2d(channels, axis, base_size, **kwargs).double()
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def map_of(n, axis, channels=2, batch=2, other=3, memory_format=torch.contiguous_format):
    size = (n, other) if axis == 'H' else (other, n)
    x = torch.randn(batch, channels, *size, dtype=torch.float64)
    return x.contiguous(memory_format=memory_format).requires_grad_()


def results(function, x, parameters):
    """Output, and gradients of input and parameters for a fixed cotangent."""
    y = function(x)
    cotangent = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad(y, [x, *parameters], cotangent)]


def assert_close(ours, expected, tolerance=PRECISE):
    for value, reference in zip(ours, expected):
        assert value.shape == reference.shape
        scale = max(reference.abs().max().item(), 1)
        assert (value - reference).abs().max() <= tolerance * scale
