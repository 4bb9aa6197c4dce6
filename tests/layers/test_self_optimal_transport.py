"""Self-optimal transport: the definition, exact gradients, references, padding, precision, forms of input and bad input."""
import math
import re

import pytest
import torch
from layers.transport_cases import (
    CASES,
    LOG,
    MATRIX,
    WAYS,
    assert_close,
    assert_equals_the_definition,
    make,
    recovered_plan,
    results,
    tokens_of,
    transport,
    unit_vectors,
)
from reference import optimal_transport as definition
from torch.autograd import gradcheck

from hybrid_mm.layers import SelfOptimalTransport, SelfOptimalTransport2d
from hybrid_mm.layers.transport import definition as problem
from hybrid_mm.layers.transport.definition import Similarity
from hybrid_mm.layers.transport.plain import plan

# ---- the definition ----


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_values_and_gradients_equal_the_definition(case, way):
    layer, settings = make(**WAYS[way], **case)
    assert_equals_the_definition(layer, settings, tokens_of(20), size=(4, 5) if case['prior'] == '2d' else None)


@pytest.mark.parametrize('eps', [MATRIX, LOG])
@pytest.mark.parametrize('prior', ['1d', None])
def test_with_padding_they_equal_the_definition_without_it(eps, prior):
    layer, settings = make(eps=eps, prior=prior)
    mask = torch.rand(3, 20) < torch.tensor([[0.7], [0.3], [1.]])  # padding anywhere; none in the last sequence
    assert_equals_the_definition(layer, settings, tokens_of(20, batch=3), mask)


@pytest.mark.parametrize('eps', [MATRIX, LOG])
@pytest.mark.parametrize('prior', ['2d', '1d', None])
@pytest.mark.parametrize('n, size', [(1, (1, 1)), (3, (3, 1)), (6, (2, 3))])
def test_fewer_tokens_than_references(eps, prior, n, size):
    layer, settings = make(num_references=16, eps=eps, prior=prior)
    assert_equals_the_definition(layer, settings, tokens_of(n), size=size)


@pytest.mark.parametrize('similarity', ['gaussian', 'dot'])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
@pytest.mark.parametrize('prior', ['1d', None])
def test_nystrom_features_equal_the_definition(similarity, eps, prior):
    layer, settings = make(similarity=similarity, eps=eps, prior=prior, nystrom=True)
    assert_equals_the_definition(layer, settings, tokens_of(12))


@pytest.mark.parametrize('iterations', [1, 2, 30])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_gradients_are_those_of_the_plan_reached_at_any_iteration(eps, iterations):
    layer, settings = make(eps=eps, iterations=iterations)
    assert_equals_the_definition(layer, settings, tokens_of(14))


@pytest.mark.parametrize('prior', ['2d', None])
def test_one_reference_gives_the_mean(prior):
    layer, settings = make(num_references=1, prior=prior)
    x = tokens_of(12)
    assert_equals_the_definition(layer, settings, x, size=(3, 4))
    if prior is None:
        assert_close([layer(x)], [layer.proj(layer.value(x).mean(1, keepdim=True).expand_as(x))])


@pytest.mark.parametrize('size', [(1, 1), (1, 2), (2, 2), (5, 3), (1, 13)], ids=str)
@pytest.mark.parametrize('prior', ['2d', '1d', None])
def test_layer_for_maps_equals_the_definition_on_its_positions(size, prior):
    layer, settings = make(kind=SelfOptimalTransport2d, prior=prior)
    x = torch.randn(2, 16, *size, dtype=torch.float64)
    tokens = x.permute(0, 2, 3, 1).reshape(2, -1, 16)
    expected = definition.self_optimal_transport(layer, tokens, None, size, **settings)
    assert_close([layer(x)], [expected.reshape(2, *size, 16).permute(0, 3, 1, 2)])


@pytest.mark.parametrize('prior', ['2d', None])
def test_both_forms_of_sinkhorn_give_the_same(prior, monkeypatch):
    layer, _ = make(prior=prior)
    x = tokens_of(20)
    forms = []
    for limit in (math.inf, -1.):
        monkeypatch.setattr(problem, 'NARROW', limit)
        forms.append(results(lambda x: layer(x, size=(4, 5)), x, list(layer.parameters())))
    assert_close(*forms)


@pytest.mark.parametrize('eps', [1e-2, 1e-3])
@pytest.mark.parametrize('similarity', ['gaussian', 'dot'])
def test_float32_takes_an_eps_whose_exponentials_leave_its_range(similarity, eps):
    """exp(-1/0.01) is zero in float32; tokens far from all references are where a plain Sinkhorn divides zero by zero."""
    near = unit_vectors(2, 4, 8)
    keys = torch.cat([near, -near.mean(1, keepdim=True).expand(2, 3, 8)], 1)[:, None]
    keys = torch.nn.functional.normalize(keys, dim=-1)
    references = near[0, None]
    arguments = Similarity(similarity, 0.5, eps), 5
    expected = transport(keys, keys, references, *arguments)
    ours = transport(keys.float(), keys.float(), references.float(), *arguments)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-6 / eps)


def test_pooled_set_equals_the_definition():
    for prior in (None, '1d'):
        layer, settings = make(prior=prior)
        x = tokens_of(11, batch=1)
        v = layer.value(x)[0]
        expected = []
        for h, values in enumerate(v.split(8, -1)):
            keys, references = definition.unit(values), definition.unit(layer.references[h])
            log_plan = definition.sinkhorn(definition.kernel(keys, references, 'gaussian', 0.5) / MATRIX, 5)
            weights = log_plan + definition.position_prior(prior, 11, 9, 0.5, None)
            expected.append(torch.softmax(weights, 0).T @ values)  # m T^T v without prior: columns of T sum to 1/m
        assert_close([layer.pooled(x)], [torch.stack(expected)[None]])


@pytest.mark.parametrize('eps', [MATRIX, LOG])
@pytest.mark.parametrize('kwargs', [
    {}, dict(nystrom=True), dict(prior='2d'), dict(similarity='dot'), WAYS['plain'], WAYS['kept']
], ids=str)
def test_gradcheck_of_input_and_references(eps, kwargs):
    layer, _ = make(channels=4, num_references=4, head_dim=2, iterations=3, eps=eps, **kwargs)

    def function(x, references):
        return torch.func.functional_call(layer, dict(references=references), x, dict(size=(1, 5)))

    references = layer.references.detach().clone().requires_grad_()
    assert gradcheck(function, (tokens_of(5, channels=4, batch=1), references))


def test_gradcheck_with_padding():
    layer, _ = make(channels=4, num_references=4, head_dim=2, prior='1d')
    mask = torch.tensor([[True, False, True, True], [False] * 4])
    assert gradcheck(lambda x: layer(x, mask), (tokens_of(4, channels=4), ))


# ---- references ----


@pytest.mark.parametrize('references', ['learnable', 'frozen'])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_learnable_references_get_a_gradient_and_frozen_ones_none(references, eps):
    layer, _ = make(references=references, eps=eps)
    layer(tokens_of(20)).square().sum().backward()

    learns = references == 'learnable'
    assert layer.references.requires_grad == learns and (layer.references.grad is not None) == learns
    assert layer.value.weight.grad.abs().sum() > 0
    if learns:
        assert (layer.references.grad.flatten(2).abs().sum(-1) > 0).all()  # each of them
    assert 'references' in layer.state_dict()


@pytest.mark.parametrize('references', ['learnable', 'frozen'])
def test_length_of_a_reference_does_not_count(references):
    layer, _ = make(references=references)
    x = tokens_of(20)
    before = layer(x)
    with torch.no_grad():
        layer.references.mul_(torch.rand(2, 9, 1, dtype=torch.float64) + 0.1)
    assert_close([layer(x)], [before])


# ---- padding ----


@pytest.mark.parametrize('prior', ['1d', None])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_padding_changes_nothing_for_the_real_tokens(prior, eps):
    layer, _ = make(prior=prior, eps=eps)
    x = tokens_of(12).detach()
    padded = torch.cat([x, torch.randn(2, 5, 16, dtype=torch.float64) * 50], 1).requires_grad_()
    mask = (torch.arange(17) < 12).expand(2, 17)
    out = layer(padded, mask)

    assert_close([out[:, :12]], [layer(x)])
    assert_close([out[:, 12:]], [layer.proj.bias.expand(2, 5, 16)])
    out.square().sum().backward()
    assert not padded.grad[:, 12:].any() and padded.grad[:, :12].any(-1).all()


@pytest.mark.parametrize('prior', ['1d', None])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_sequences_of_one_batch_may_differ_in_length(prior, eps):
    layer, _ = make(prior=prior, eps=eps)
    x = tokens_of(12, batch=3)
    lengths = (12, 5, 1)
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    out = layer(x, mask)
    for b, length in enumerate(lengths):
        assert_close([out[b, :length]], [layer(x[b:b + 1, :length])[0]])


@pytest.mark.parametrize('prior', ['1d', None])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
@pytest.mark.parametrize('zeros', [True, False])
def test_sequence_of_padding_alone_is_finite(prior, eps, zeros):
    layer, _ = make(prior=prior, eps=eps, dtype=torch.float32, debug=True)
    x = tokens_of(12, dtype=torch.float32)
    mask = torch.tensor([[False] * 12, [True] * 12])
    out = layer(x * mask[..., None] if zeros else x, mask)
    out.square().sum().backward()

    torch.testing.assert_close(out[0], layer.proj.bias.expand(12, 16))
    assert out.isfinite().all() and x.grad.isfinite().all() and not x.grad[0].any()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_tokens_of_length_zero_are_finite():
    for prior in ('1d', None):
        layer, _ = make(prior=prior, dtype=torch.float32)
        with torch.no_grad():
            layer.value.bias.zero_()
        x = torch.zeros(2, 9, 16, requires_grad=True)
        out = layer(x)
        out.sum().backward()
        assert out.isfinite().all() and x.grad.isfinite().all()


# ---- precision ----


@pytest.mark.parametrize('form', ['bfloat16 autocast', 'float16 autocast', 'float16 layer', 'bfloat16 layer'])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
@pytest.mark.parametrize('prior', ['1d', None])
def test_half_precision_has_a_plan_in_float32(form, eps, prior):
    """Everything but the two projections equals the definition: logits in half precision would be off by several units."""
    dtype = getattr(torch, form.split()[0])
    layer, settings = make(prior=prior, eps=eps, iterations=10, dtype=torch.float32 if 'autocast' in form else dtype)
    x = tokens_of(300, dtype=torch.float32 if 'autocast' in form else dtype)  # 1/(nm) is below float16's normal range
    with torch.autocast('cpu', dtype, enabled='autocast' in form):
        out = layer(x)
        v = layer.value(x)
        exchanged = definition.exchange(layer, v.double(), None, None, **settings)
        expected = layer.proj(exchanged.to(dtype))
    out.float().square().mean().backward()

    assert v.dtype == out.dtype == dtype
    assert (out.double() - expected.double()).abs().max() <= 2 * torch.finfo(dtype).eps * expected.abs().max()
    assert x.grad.isfinite().all() and x.grad.any()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_leaves_plan_and_pooled_set_in_float32(dtype):
    layer, _ = make(dtype=torch.float32)
    x = tokens_of(30, dtype=torch.float32)
    with torch.autocast('cpu', dtype):
        T, A = layer.plan(x), layer.pooled(x)
    assert T.dtype == A.dtype == torch.float32
    assert torch.equal(T, layer.plan(x)) and torch.equal(A, layer.pooled(x))


@pytest.mark.parametrize('eps', [MATRIX, 0.02])
@pytest.mark.parametrize('similarity', ['gaussian', 'dot'])
def test_float32_plan_agrees_with_float64(similarity, eps):
    n, m = 400, 49
    keys, references = unit_vectors(1, 2, n, 32), unit_vectors(2, m, 32, seed=1)
    similarity = Similarity(similarity, 0.5, eps)
    for function in (plan, recovered_plan):
        expected = function(keys, references, similarity, 10)
        ours = function(keys.float(), references.float(), similarity, 10)
        assert (n * m * (ours - expected)).abs().max() <= 1e-5 * max((n * m * expected).max().item(), 1)


# ---- forms of input and run ----


@pytest.mark.parametrize('size', [(1, 1), (1, 3), (2, 2), (7, 5)], ids=str)
@pytest.mark.parametrize('training', [True, False])
def test_channels_last_maps_stay_so(size, training):
    layer, _ = make(kind=SelfOptimalTransport2d, prior='2d', dtype=torch.float32)
    x = torch.randn(2, 16, *size)
    with torch.set_grad_enabled(training):
        out = layer(x.contiguous(memory_format=torch.channels_last))
        assert out.shape == x.shape and out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out, layer(x))


def test_maps_have_the_prior_on_maps_by_default():
    assert SelfOptimalTransport2d(16, 9, 8).prior == '2d' and SelfOptimalTransport(16, 9, 8).prior == '1d'


@pytest.mark.parametrize('kind, shape, prior, eps', [
    (SelfOptimalTransport, (2, 20, 16), None, MATRIX), (SelfOptimalTransport, (2, 20, 16), '1d', LOG),
    (SelfOptimalTransport2d, (2, 16, 4, 5), '2d', MATRIX),
])
def test_compiles_into_one_graph(kind, shape, prior, eps):
    layer, _ = make(kind=kind, prior=prior, eps=eps)
    x = torch.randn(*shape, dtype=torch.float64)
    compiled = torch.compile(layer.eval(), backend='eager', fullgraph=True)
    with torch.no_grad():
        assert_close([compiled(x)], [layer(x)])


def test_compiles_into_one_graph_with_gradients():
    layer, _ = make(prior='1d')
    x = tokens_of(20)
    compiled = torch.compile(layer, backend='aot_eager', fullgraph=True)
    assert_close(results(compiled, x, list(layer.parameters())), results(layer, x, list(layer.parameters())))


@pytest.mark.parametrize('way', WAYS)
def test_recomputation_changes_no_value(way):
    layer, _ = make(prior='1d', **WAYS[way])
    x = tokens_of(20)
    with torch.no_grad():
        plain = layer(x)
    assert_close([layer(x)], [plain], 1e-14)


# ---- bad input ----


@pytest.mark.parametrize('kind', [SelfOptimalTransport, SelfOptimalTransport2d])
@pytest.mark.parametrize('arguments, message', [
    (dict(num_references=0), 'num_references=0 is not allowed; choose a whole number, 1 or more'),
    (dict(num_references=-4), 'num_references=-4 is not allowed'),
    (dict(num_references=6.25), 'num_references=6.25 is not allowed'),
    (dict(eps=0), 'eps=0 is not allowed; choose a number above 0'),
    (dict(eps=-0.1), 'eps=-0.1 is not allowed'),
    (dict(eps=math.nan), 'eps=nan is not allowed'),
    (dict(sigma=0.), 'sigma=0.0 is not allowed; choose a number above 0'),
    (dict(tau=-1), 'tau=-1 is not allowed; choose a number above 0'),
    (dict(iterations=0), 'iterations=0 is not allowed; choose a whole number, 1 or more'),
    (dict(iterations=2.5), 'iterations=2.5 is not allowed'),
    (dict(head_dim=12), 'head_dim=12 does not divide channels=16; choose a positive divisor of 16'),
    (dict(head_dim=32), 'head_dim=32 does not divide channels=16'),
    (dict(head_dim=0), 'head_dim=0 does not divide channels=16'),
    (dict(num_references=48, prior='2d'), "num_references=48 is not allowed with prior='2d', .* choose a square such as 36"),
    (dict(similarity='cosine'), "similarity='cosine' is unknown; choose from 'gaussian', 'dot'"),
    (dict(prior='3d'), "prior='3d' is unknown; choose from '1d', '2d', None"),
    (dict(references='kmeans'), "references='kmeans' is unknown; choose from 'learnable', 'frozen'"),
], ids=lambda value: str(value) if isinstance(value, dict) else '')
def test_bad_argument_is_one_error_that_names_it(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**{**dict(channels=16, num_references=9, head_dim=8), **arguments})


@pytest.mark.parametrize('prior', ['1d', None])
def test_any_number_of_references_goes_without_the_prior_on_maps(prior):
    layer, _ = make(kind=SelfOptimalTransport2d, num_references=7, prior=prior)
    assert layer(torch.randn(1, 16, 3, 3, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize('size', [None, (4, 4), (20, 2)], ids=str)
def test_prior_on_maps_needs_the_size_of_the_map(size):
    layer, _ = make(prior='2d')
    message = f"size={size} does not fit 20 tokens; prior='2d' needs the height and width of the map"
    with pytest.raises(ValueError, match=re.escape(message)):
        layer(tokens_of(20), size=size)
