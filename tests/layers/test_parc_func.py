"""ParC under torch.func and with forward-mode derivatives, both of which see through plain operators alone."""
import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from layers.parc_cases import assert_close, layer_of, map_of
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from hybrid_mm.layers import ParCHW

CASES = [(backend, depthwise) for backend in ('direct', 'fft', 'gemm') for depthwise in (True, False)]


@pytest.fixture(params=CASES, ids=lambda case: f'{case[0]}-{"depthwise" if case[1] else "dense"}')
def layer(request):
    return layer_of(axis='W', base_size=4, backend=request.param[0], depthwise=request.param[1])


def loss_of(layer, parameters, x):
    return functional_call(layer, parameters, x).square().sum()


def test_grad_is_that_of_a_backward_pass(layer):
    x = map_of(7, 'W')
    parameters = dict(layer.named_parameters())
    ours, ours_x = grad(lambda p, x: loss_of(layer, p, x), argnums=(0, 1))(parameters, x.detach())
    expected = torch.autograd.grad(loss_of(layer, parameters, x), [*parameters.values(), x])

    assert_close([*ours.values(), ours_x], expected)


def test_gradients_of_single_examples(layer):
    x = map_of(6, 'W', batch=3).detach()
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    ours = vmap(grad(lambda p, x: loss_of(layer, p, x[None])), (None, 0))(parameters, x)

    for i in range(3):
        expected = torch.autograd.grad(loss_of(layer, dict(layer.named_parameters()), x[i:i + 1]), list(layer.parameters()))
        assert_close([value[i] for value in ours.values()], expected)


@pytest.mark.parametrize('training', [True, False])
def test_vmap_over_maps_and_over_an_ensemble(layer, training):
    layer.train(training)
    x = torch.randn(3, 2, 2, 5, 6, dtype=torch.float64)
    stacked = {name: torch.stack([p.detach(), -p.detach(), 2 * p.detach()]) for name, p in layer.named_parameters()}
    with torch.set_grad_enabled(training):
        assert_close([vmap(layer)(x)], [torch.stack([layer(part) for part in x])])
        assert_close([vmap(lambda p: functional_call(layer, p, x[0]))(stacked)],
                     [torch.stack([functional_call(layer, {k: p[i] for k, p in stacked.items()}, x[0]) for i in range(3)])])


@pytest.mark.parametrize('backend', ['direct', 'fft', 'gemm'])
def test_vmap_over_both_axes_without_gradients(backend):
    layer = ParCHW(4, 5, backend=backend).double().eval()
    x = torch.randn(3, 2, 4, 6, 40, dtype=torch.float64)
    stacked = {name: torch.stack([p.detach(), -p.detach()]) for name, p in layer.named_parameters()}
    with torch.no_grad():
        assert_close([vmap(layer)(x)], [torch.stack([layer(part) for part in x])])
        assert_close([vmap(lambda p: functional_call(layer, p, x[0]))(stacked)],
                     [torch.stack([functional_call(layer, {k: p[i] for k, p in stacked.items()}, x[0]) for i in range(2)])])


def test_forward_mode_derivatives(layer):
    x, tangent = map_of(6, 'W').detach(), map_of(6, 'W').detach()
    expected = (layer(x + tangent) - layer(x - tangent)) / 2  # affine in x

    assert_close(jvp(layer, (x, ), (tangent, ))[1:], [expected])
    for records in (True, False):
        with torch.set_grad_enabled(records), forward_ad.dual_level():
            y = layer.eval()(forward_ad.make_dual(x, tangent))
            assert_close([forward_ad.unpack_dual(y).tangent], [expected])


def test_jacobians_of_both_modes_and_batched_backward_passes(layer):
    x = map_of(3, 'W', batch=1, other=1)
    ours = jacrev(layer)(x.detach())
    assert_close([jacfwd(layer)(x.detach())], [ours])
    inputs = [x, *layer.parameters()]
    y = layer(x).flatten()
    rows = vmap(lambda cotangent: torch.autograd.grad(y, inputs, cotangent, retain_graph=True))(torch.eye(len(y), dtype=y.dtype))
    for i in range(len(y)):
        assert_close([row[i] for row in rows], torch.autograd.grad(y[i], inputs, retain_graph=True))
    assert_close([rows[0].unflatten(0, (1, 2, 1, 3))], [ours])
