"""ParC: three exact backends, any size, kept kernels that are never stale."""
import copy
import pickle
from unittest import mock

import pytest
import torch
from reference.parc import parc
from torch.autograd import gradcheck, gradgradcheck

from hybrid_mm.layers import ParC2d, ParCHW
from hybrid_mm.layers import parc as parc_module
from hybrid_mm.layers.parc_crossovers import choose_backend

BACKENDS = ['direct', 'fft', 'gemm', 'auto']
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


@pytest.mark.parametrize('axis', ['H', 'W'])
@pytest.mark.parametrize('depthwise', [True, False])
@pytest.mark.parametrize('first', range(1, 131, 10))
def test_backends_equal_the_definition_at_every_length(first, depthwise, axis):
    for n in range(first, first + 10):
        layer = layer_of(base_size=7, axis=axis, depthwise=depthwise, seed=n)
        x = map_of(n, axis)
        expected = results(lambda x: parc(x, layer.weight, layer.bias, layer.pos_embed, axis), x, list(layer.parameters()))
        for layer.backend in BACKENDS:
            assert_close(results(layer, x, list(layer.parameters())), expected)


@pytest.mark.parametrize('backend', ['direct', 'fft', 'gemm'])
@pytest.mark.parametrize('depthwise', [True, False])
@pytest.mark.parametrize('bias, pos_embed', [(True, False), (False, True), (False, False)])
def test_bias_and_embedding_can_be_left_out(backend, depthwise, bias, pos_embed):
    layer = layer_of(depthwise=depthwise, bias=bias, pos_embed=pos_embed, backend=backend)
    x = map_of(6, 'H')
    parameters = list(layer.parameters())

    assert len(parameters) == 1 + bias + pos_embed
    assert_close(
        results(layer, x, parameters),
        results(lambda x: parc(x, layer.weight, layer.bias, layer.pos_embed, 'H'), x, parameters))
    with torch.no_grad():
        assert_close([layer.eval()(x)], [parc(x, layer.weight, layer.bias, layer.pos_embed, 'H')])


@pytest.mark.parametrize('backend', ['direct', 'fft', 'gemm'])
@pytest.mark.parametrize('depthwise', [True, False])
@pytest.mark.parametrize('n', [1, 4, 5])
def test_first_and_second_derivatives(backend, depthwise, n):
    layer = layer_of(axis='W', base_size=3, depthwise=depthwise, backend=backend)

    def function(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters)), x)

    names, parameters = zip(*layer.named_parameters())
    inputs = map_of(n, 'W', batch=1, other=2), *(p.detach().clone().requires_grad_() for p in parameters)
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


@pytest.mark.parametrize('backend', ['fft', 'gemm'])
@pytest.mark.parametrize('depthwise', [True, False])
def test_maps_are_worked_on_in_parts(backend, depthwise, monkeypatch):
    monkeypatch.setattr('hybrid_mm.layers.circular_correlation._PART_VALUES', dict(cpu=50))
    for axis in 'HW':
        layer = layer_of(channels=7, axis=axis, depthwise=depthwise, backend=backend)
        x = map_of(6, axis, channels=7, batch=3)
        expected = results(lambda x: parc(x, layer.weight, layer.bias, layer.pos_embed, axis), x, list(layer.parameters()))
        assert_close(results(layer, x, list(layer.parameters())), expected)


@pytest.mark.parametrize('backend', BACKENDS)
def test_height_and_width_are_resized_independently(backend):
    layer = ParCHW(4, (5, 8), backend=backend).double()
    x = torch.randn(1, 4, 6, 11, dtype=torch.float64)
    h, w = layer.h, layer.w

    assert h.weight.shape == (2, 1, 5, 1) and w.weight.shape == (2, 1, 1, 8)
    expected = torch.cat([parc(x[:, :2], h.weight, h.bias, h.pos_embed, 'H'), parc(x[:, 2:], w.weight, w.bias, w.pos_embed, 'W')], 1)
    assert_close([layer(x)], [expected])
    with torch.no_grad():
        assert_close([layer.eval()(x)], [expected])


@pytest.mark.parametrize('backend', ['direct', 'fft', 'gemm'])
def test_without_embedding_a_circular_shift_commutes(backend):
    layer = layer_of(base_size=6, pos_embed=False, backend=backend)
    x = map_of(9, 'H')

    assert_close([layer(x.roll(4, 2))], [layer(x).roll(4, 2)])
    with_embedding = layer_of(base_size=6, backend=backend)
    assert (with_embedding(x.roll(4, 2)) - with_embedding(x).roll(4, 2)).abs().max() > 0.1


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('backend', ['direct', 'fft', 'gemm'])
@pytest.mark.parametrize('training', [True, False])
def test_memory_format_is_kept(backend, memory_format, training):
    layer = ParCHW(4, 5, backend=backend).train(training)
    x = torch.randn(2, 4, 6, 7).contiguous(memory_format=memory_format)
    with torch.set_grad_enabled(training):
        y = layer(x)

    assert y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('training', [True, False])
def test_autocast_gives_half_precision_near_the_float_result(backend, dtype, training):
    layer = layer_of(channels=4, base_size=8, backend=backend).float().train(training)
    x = map_of(8, 'H', channels=4).detach().float()
    with torch.set_grad_enabled(training), torch.autocast('cpu', dtype):
        y = layer(x)
    if training:
        y.float().square().sum().backward()

    assert y.dtype == dtype
    assert (y - layer(x)).norm() <= 4 * torch.finfo(dtype).eps * layer(x).norm()
    assert all(p.grad is None or (p.grad.dtype == torch.float32 and p.grad.isfinite().all()) for p in layer.parameters())
    assert all((p.grad is not None) == training for p in layer.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_fft_takes_half_precision_maps_and_weights(dtype):
    layer = layer_of(channels=4, base_size=5, backend='fft').to(dtype)
    x = map_of(6, 'H', channels=4).detach().to(dtype)
    expected = copy.deepcopy(layer).float()(x.float())

    assert layer(x).dtype == dtype
    assert (layer(x) - expected).norm() <= 4 * torch.finfo(dtype).eps * expected.norm()


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('training', [True, False])
def test_compiles_into_one_graph(backend, training):
    layer = ParCHW(4, 6, backend=backend).double().train(training)
    compiled = torch.compile(layer, backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 4, 6, 9, dtype=torch.float64, requires_grad=training)
    parameters = list(layer.parameters())
    if training:
        assert_close(results(compiled, x, parameters), results(layer, x, parameters))
    else:
        with torch.no_grad():
            assert_close([compiled(x)], [layer(x)])


def test_export_takes_the_direct_form():
    exported = torch.export.export(ParC2d(2, 'H', 4).eval(), (torch.randn(1, 2, 60, 3), ))
    operators = str(exported.graph)

    assert 'conv2d' in operators and 'fft' not in operators and 'matmul' not in operators


# ---- what an evaluation keeps ----


@pytest.fixture(params=['direct', 'fft', 'gemm'])
def kept(request):
    """A layer in evaluation that has run once, with its input."""
    layer = layer_of(base_size=4, backend=request.param).eval()
    x = map_of(6, 'H').detach()
    with torch.no_grad():
        layer(x)
    return layer, x


def assert_up_to_date(layer, x):
    with torch.no_grad():
        ours = layer(x)
    expected = parc(x, layer.weight, layer.bias, layer.pos_embed, layer.axis)
    assert_close([ours], [expected], PRECISE if x.dtype == torch.float64 else 1e-4)


def count_resizes(layer, x):
    with torch.no_grad(), mock.patch.object(parc_module, 'resize', wraps=parc_module.resize) as resize:
        layer(x)
    return resize.call_count


def test_weights_are_prepared_once_a_size(kept):
    layer, x = kept

    assert count_resizes(layer, x) == 0
    assert count_resizes(layer, x[:, :, :5]) == 2  # kernel and embedding
    assert count_resizes(layer, x[:, :, :5]) == 0
    assert count_resizes(layer, x) == 0


def test_nothing_is_kept_in_training(kept):
    layer, x = kept
    layer.train()

    assert count_resizes(layer, x) == 2
    assert count_resizes(layer, x) == 2


@pytest.mark.parametrize('name', ['weight', 'bias', 'pos_embed'])
@pytest.mark.parametrize('change', [
    lambda p: p.mul_(2), lambda p: p.data.mul_(2), lambda p: setattr(p, 'data', p.data * 2),
    lambda p: torch.optim.SGD([p], 0.5).step()
], ids=['in place', 'through data', 'other data', 'optimizer'])
def test_a_changed_weight_is_seen(kept, name, change):
    layer, x = kept
    parameter = getattr(layer, name)
    parameter.grad = torch.ones_like(parameter)
    with torch.no_grad():
        change(parameter)

    assert_up_to_date(layer, x)


@pytest.mark.parametrize('assign', [True, False])
def test_a_loaded_state_dict_is_seen(kept, assign):
    layer, x = kept
    layer.load_state_dict({key: value * 3 for key, value in layer.state_dict().items()}, assign=assign)

    assert_up_to_date(layer, x)


def test_a_change_of_dtype_is_seen(kept):
    layer, x = kept
    layer.float()

    assert_up_to_date(layer, x.float())
    assert_up_to_date(layer.double(), x)


def test_a_replaced_parameter_is_seen(kept):
    layer, x = kept
    layer.weight = torch.nn.Parameter(-layer.weight.detach())

    assert_up_to_date(layer, x)


def test_training_after_inference_mode_works(kept):
    layer, x = kept
    with torch.inference_mode():
        layer(x[:, :, :3])
    layer(x[:, :, :3].clone().requires_grad_()).sum().backward()

    assert layer.weight.grad.abs().sum() > 0
    assert_up_to_date(layer, x[:, :, :3])


def test_number_of_kept_sizes_is_bounded(kept):
    layer, x = kept
    with torch.no_grad():
        for n in range(1, 40):
            layer(torch.zeros(1, 2, n, 1, dtype=torch.float64))

    assert len(layer._prepared.entries) <= 8
    assert_up_to_date(layer, x)


def test_copies_and_files_hold_parameters_alone(kept):
    layer, x = kept
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert not other._prepared.entries
        assert_up_to_date(other, x)
    assert set(layer.state_dict()) == {'weight', 'bias', 'pos_embed'}


# ---- bad input ----


@pytest.mark.parametrize('arguments, message', [
    (dict(base_size=0), 'base_size=0 is not allowed; choose an integer, 1 or more'),
    (dict(base_size=-3), 'base_size=-3 is not allowed'),
    (dict(base_size=7.5), 'base_size=7.5 is not allowed'),
    (dict(channels=0), 'channels=0 is not allowed'),
    (dict(axis='x'), "axis='x' is not allowed; choose 'H' or 'W'"),
    (dict(backend='winograd'), "backend='winograd' is unknown; choose from auto, direct, fft, gemm"),
])
def test_bad_argument_is_one_error_that_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        ParC2d(**{**dict(channels=4, axis='H', base_size=7), **arguments})


@pytest.mark.parametrize('channels', [1, 7, 0])
def test_odd_channels_cannot_be_split(channels):
    with pytest.raises(ValueError, match=f'channels={channels} is not allowed; .* choose an even number'):
        ParCHW(channels, 7)


def test_map_of_other_channels_is_an_error():
    with pytest.raises(ValueError, match=r'the input has the shape \(1, 3, 5, 5\); it needs \(B, 4, H, W\)'):
        ParC2d(4, 'H', 7)(torch.zeros(1, 3, 5, 5))


# ---- auto ----


@pytest.mark.parametrize('n, axis, depthwise, records, channels_last, dtype, backend', [
    (112, 'H', True, False, False, torch.float32, 'gemm'),
    (112, 'W', True, False, False, torch.float32, 'fft'),
    (112, 'W', True, True, True, torch.float32, 'fft'),
    (14, 'W', True, True, True, torch.float32, 'direct'),
    (14, 'H', False, False, True, torch.float32, 'fft'),
    (14, 'H', False, True, True, torch.float32, 'direct'),
    (28, 'H', True, False, False, torch.float64, 'gemm'),
])
def test_auto_follows_the_measured_table(n, axis, depthwise, records, channels_last, dtype, backend):
    x = torch.empty(1, 4, n, n, dtype=dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)[:, :2]  # one half of a block's channels

    assert choose_backend(x, axis, depthwise, records) == backend


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('n', [7, 60, 200])
def test_auto_runs_what_it_chooses(n, training):
    layer = ParC2d(2, 'H', 7).train(training)
    x = torch.randn(1, 2, n, 5)
    with torch.set_grad_enabled(training):
        chosen = choose_backend(x, 'H', True, training)
        y = layer(x)
        layer.backend = chosen
        assert torch.equal(layer(x), y)  # to the last bit, which no two backends share
        layer.backend = next(backend for backend in ('direct', 'fft', 'gemm') if backend != chosen)
        assert not torch.equal(layer(x), y)
