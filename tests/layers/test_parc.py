"""ParC: three exact backends, any size, any derivative."""
import copy
import re
from pathlib import Path

import pytest
import torch
from layers.parc_cases import assert_close, layer_of, map_of, results
from reference.parc import parc
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from hybrid_mm.layers import ParC2d, ParCHW
from hybrid_mm.layers import parc as parc_package
from hybrid_mm.layers.parc.correlation import circular_correlation
from hybrid_mm.layers.parc.crossovers import choose_backend

BACKENDS = ['direct', 'fft', 'gemm', 'auto']
STANDARD = {'contextlib', 'dataclasses', 'functools', 'inspect', 'itertools', 'logging', 'math', 're', 'typing'}


@pytest.mark.parametrize('axis', ['H', 'W'])
@pytest.mark.parametrize('depthwise', [True, False])
@pytest.mark.parametrize('lengths', [range(1, 31), range(31, 71), (96, 97, 112, 127, 128, 130)], ids=['short', 'middle', 'long'])
def test_backends_equal_the_definition_at_every_length(lengths, depthwise, axis):
    for n in lengths:
        layer = layer_of(base_size=7, axis=axis, depthwise=depthwise, seed=n)
        x = map_of(n, axis)
        expected = results(lambda x: parc(x, layer.weight, layer.bias, layer.pos_embed, axis), x, list(layer.parameters()))
        for layer.backend in ('direct', 'fft', 'gemm'):
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
    assert gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize('backend', ['fft', 'gemm'])
@pytest.mark.parametrize('depthwise', [True, False])
def test_maps_are_worked_on_in_parts(backend, depthwise, monkeypatch):
    monkeypatch.setattr('hybrid_mm.layers.parc.lines._PART_VALUES', dict(cpu=50))
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
    expected = torch.cat([parc(x[:, :2], h.weight, h.bias, h.pos_embed, 'H'),
                          parc(x[:, 2:], w.weight, w.bias, w.pos_embed, 'W')], 1)
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


@pytest.mark.parametrize('training', [True, False])
def test_all_backends_compile_into_one_graph(training):
    layers = nn.ModuleList(ParCHW(4, 6, backend=backend) for backend in BACKENDS).double().train(training)

    def maps(x):
        return torch.stack([layer(x) for layer in layers])

    compiled = torch.compile(maps, backend='aot_eager', fullgraph=True)
    x = torch.randn(2, 4, 6, 9, dtype=torch.float64, requires_grad=training)
    if training:
        assert_close(results(compiled, x, layers.parameters()), results(maps, x, layers.parameters()))
    else:
        with torch.no_grad():
            assert_close([compiled(x)], [maps(x)])


@pytest.mark.parametrize('strict', [True, False])
def test_export_takes_the_direct_form_and_changes_nothing(strict, recwarn):
    exported = torch.export.export(ParC2d(2, 'H', 4).eval(), (torch.randn(1, 2, 60, 3), ), strict=strict)
    assert not [warning for warning in recwarn if 'side effects' in str(warning.message)]
    operators = str(exported.graph)

    assert 'conv2d' in operators and 'fft' not in operators and 'matmul' not in operators


# ---- what nn.Conv2d takes, too ----


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('depthwise', [True, False])
@pytest.mark.parametrize('training', [True, False])
def test_empty_batch_gives_an_empty_map_and_gradients_of_zero(backend, depthwise, training):
    layer = ParCHW(4, 6, depthwise=depthwise, backend=backend).train(training)
    x = torch.zeros(0, 4, 60, 7, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    with torch.no_grad():
        kept = layer(x)

    assert y.shape == kept.shape == x.grad.shape == x.shape
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in layer.parameters())


@pytest.mark.parametrize('backend', ['direct', 'fft', 'gemm'])
@pytest.mark.parametrize('axis, memory_format', [('H', torch.channels_last), ('W', torch.contiguous_format)])
@pytest.mark.parametrize('out_channels, channels', [(3, 2), (2, 3), (3, 1), (1, 3)])
def test_dense_kernels_to_other_channels(backend, axis, memory_format, out_channels, channels):
    x = map_of(4, axis, channels, memory_format=memory_format)
    weight = torch.randn(out_channels, channels, 4, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(out_channels, 4, dtype=torch.float64, requires_grad=True)

    def function(x, weight, offset):
        return circular_correlation(x, weight, offset, axis, backend)

    def as_map(line):
        return line[..., None] if axis == 'H' else line[..., None, :]

    y = function(x, weight, offset)
    assert_close([y], [parc(x, as_map(weight), None, None, axis) + as_map(offset)])
    assert y.is_contiguous(memory_format=memory_format) or channels == 1  # which has no format
    assert function(x[:0], weight, offset).shape == y[:0].shape
    assert gradcheck(function, (x, weight, offset), fast_mode=True)
    assert gradgradcheck(function, (x, weight, offset), fast_mode=True)


@pytest.mark.parametrize('backend', ['fft', 'gemm'])
def test_dense_kernels_to_other_channels_in_parts(backend, monkeypatch):
    monkeypatch.setattr('hybrid_mm.layers.parc.lines._PART_VALUES', dict(cpu=50))
    x = map_of(6, 'H', 3, batch=3)
    weight = torch.randn(5, 3, 6, dtype=torch.float64, requires_grad=True)
    assert_close(
        results(lambda x: circular_correlation(x, weight, None, 'H', backend), x, [weight]),
        results(lambda x: parc(x, weight[..., None], None, None, 'H'), x, [weight]))


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


def test_files_of_the_package_import_those_below_alone():
    """No circle, and no mathematics that imports the table of crossovers."""
    folder = Path(parc_package.__file__).parent
    order = re.findall(r'`(\w+)`', parc_package.__doc__.partition('The files, from below')[2].partition('They need')[0])
    assert sorted(order) == sorted(path.stem for path in folder.glob('*.py') if path.stem != '__init__')
    for i, name in enumerate(order):
        text = (folder / f'{name}.py').read_text()
        names = re.findall(r'^ *from \.(\w+) import', text, re.MULTILINE)
        names += [name for line in re.findall(r'^ *from \. import (.+)', text, re.MULTILINE) for name in line.split(', ')]
        assert set(names) <= set(order[:i]), name
        assert set(re.findall(r'^ *(?:from|import) (\w+|\.\.\w+)', text, re.MULTILINE)) <= STANDARD | {'torch', '..tracing'}, name
