"""`torch.func` on self-optimal transport: its transforms see plain operators and give what autograd gives."""
import pytest
import torch
from layers.transport_cases import LOG, MATRIX, make, tokens_of
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap

CASES = {
    'blocks': dict(),
    'log domain': dict(eps=LOG, prior='1d'),
    'nystrom': dict(nystrom=True, similarity='dot', prior='1d'),
    'map': dict(prior='2d', recompute=False),
    'backend asked for': dict(backend='blocks', debug=True),
}


@pytest.fixture(params=CASES)
def case(request):
    """A layer, its parameters, tokens, and a loss of the two."""
    layer, _ = make(num_references=4, **{**dict(eps=MATRIX), **CASES[request.param]})
    size = (3, 4) if layer.prior == '2d' else None

    def loss(parameters, x):
        return functional_call(layer, parameters, (x, None, size)).square().sum()

    return layer, {name: p.detach() for name, p in layer.named_parameters()}, tokens_of(12, batch=3).detach(), loss


def gradients(layer, loss, x):
    parameters = dict(layer.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss(parameters, x), parameters.values())))


def test_grad_is_that_of_autograd(case):
    layer, parameters, x, loss = case
    torch.testing.assert_close(grad(loss)(parameters, x), gradients(layer, loss, x), rtol=1e-9, atol=1e-9)


def test_vmap_gives_the_gradient_of_each_picture(case):
    layer, parameters, x, loss = case
    each = vmap(grad(lambda parameters, x: loss(parameters, x[None])), in_dims=(None, 0))(parameters, x)
    for i in range(3):
        expected = gradients(layer, loss, x[i:i + 1])
        torch.testing.assert_close({name: g[i] for name, g in each.items()}, expected, rtol=1e-9, atol=1e-9)


def test_vmap_over_padding():
    layer, _ = make(prior='1d')
    x, mask = tokens_of(12, batch=3), torch.rand(3, 12) < 0.7
    torch.testing.assert_close(vmap(lambda x, mask: layer(x[None], mask[None])[0])(x, mask), layer(x, mask))


def test_forward_mode_and_second_derivatives_agree_with_differences():
    layer, _ = make(channels=4, num_references=4, head_dim=2, iterations=2)
    x, direction = tokens_of(3, channels=4, batch=1).detach(), torch.randn(1, 3, 4, dtype=torch.float64)
    step = 1e-5 * direction
    slope = (layer(x + step) - layer(x - step)) / 2e-5
    torch.testing.assert_close(jvp(layer, (x, ), (direction, ))[1], slope, rtol=1e-6, atol=1e-7)

    def loss(x):
        return layer(x).square().sum()

    curvature = hessian(loss)(x).flatten(3).flatten(0, 2) @ direction.flatten()
    slope = (grad(loss)(x + step) - grad(loss)(x - step)) / 2e-5
    torch.testing.assert_close(curvature, slope.flatten(), rtol=1e-5, atol=1e-6)


def test_forward_mode_without_torch_func():
    layer, _ = make()
    x, direction = tokens_of(5).detach(), torch.randn(2, 5, 16, dtype=torch.float64)
    with forward_ad.dual_level():
        ours = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction))).tangent
    torch.testing.assert_close(ours, jvp(layer, (x, ), (direction, ))[1])
