"""Self-optimal transport: the definition, its algebra, exact gradients in little memory, padding, precision and bad input."""
import math
import re
import weakref

import ot
import pytest
import torch
from reference import optimal_transport as definition
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hybrid_mm.layers import SelfOptimalTransport, SelfOptimalTransport2d, optimal_transport
from hybrid_mm.layers.optimal_transport import (Similarity, plan, pooled, position_prior_1d, position_prior_2d, row_entropy,
                                                transport)

PRECISE = 1e-9
MATRIX, LOG = 0.1, 0.01  # eps: exp(similarity / eps) within the range of float32, and beyond it
SETTINGS = dict(similarity='gaussian', sigma=0.5, eps=MATRIX, iterations=5, prior=None, tau=0.5)
CASES = [dict(similarity=similarity, eps=eps, prior=prior)
         for similarity in ('gaussian', 'dot') for eps in (MATRIX, LOG) for prior in ('2d', '1d', None)]


def make(channels=16, num_references=9, head_dim=8, seed=0, kind=SelfOptimalTransport, dtype=torch.float64, **kwargs):
    """A layer with values of the order of 1 everywhere, and all settings of the transport."""
    torch.manual_seed(seed)
    settings = {**SETTINGS, **kwargs}
    layer = kind(channels, num_references, head_dim, **settings).to(dtype)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer, {key: settings[key] for key in SETTINGS}


def tokens_of(n, channels=16, batch=2, dtype=torch.float64):
    return torch.randn(batch, n, channels, dtype=dtype, requires_grad=True)


def unit_vectors(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def results(function, x, parameters):
    """Output, and gradients of input and parameters for a fixed cotangent."""
    out = function(x)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out, *torch.autograd.grad(out, [x, *parameters], cotangent)]


def assert_close(ours, expected, tolerance=PRECISE):
    for value, reference in zip(ours, expected, strict=True):
        assert value.shape == reference.shape
        assert (value - reference).abs().max() <= tolerance * max(reference.abs().max().item(), 1)


def assert_equals_the_definition(layer, settings, x, mask=None, size=None):
    parameters = list(layer.parameters())
    assert_close(
        results(lambda x: layer(x, mask, size), x, parameters),
        results(lambda x: definition.self_optimal_transport(layer, x, mask, size, **settings), x, parameters))


# ---- the definition ----


@pytest.mark.parametrize('recompute', [True, False])
@pytest.mark.parametrize('case', CASES, ids=str)
def test_values_and_gradients_equal_the_definition(case, recompute):
    layer, settings = make(recompute=recompute, **case)
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
        monkeypatch.setattr(optimal_transport, 'NARROW', limit)
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
    {}, dict(nystrom=True), dict(prior='2d'), dict(similarity='dot'), dict(recompute=False)
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


# ---- the plan ----


def recovered_plan(keys, references, similarity, iterations):
    """T from what the references collect of one-hot values, m T^T: the plan that the values travel along."""
    one_hot = torch.eye(keys.shape[-2], dtype=keys.dtype).expand(*keys.shape[:-1], -1)
    return pooled(one_hot, keys, references, similarity, iterations).transpose(-1, -2) / references.shape[-2]


@pytest.mark.parametrize('eps', [MATRIX, 0.03, LOG])
@pytest.mark.parametrize('similarity', ['gaussian', 'dot'])
def test_converged_plan_is_that_of_an_independent_solver(similarity, eps):
    keys, references = unit_vectors(1, 1, 12, 8), unit_vectors(1, 5, 8, seed=1)
    similarity, iterations = Similarity(similarity, 0.5, eps), 1000
    cost = -definition.kernel(keys[0, 0], references[0], similarity.kind, 0.5).numpy()
    a, b = torch.full((12, ), 1 / 12, dtype=torch.float64).numpy(), torch.full((5, ), 1 / 5, dtype=torch.float64).numpy()
    theirs = torch.from_numpy(
        ot.sinkhorn(a, b, cost, eps, method='sinkhorn_log', numItermax=iterations, stopThr=1e-14, warn=False))
    assert (theirs.sum(1) - 1 / 12).abs().max() < 1e-9  # it has converged

    for ours in (plan(keys, references, similarity, iterations), recovered_plan(keys, references, similarity, iterations)):
        assert 12 * 5 * (ours[0, 0] - theirs).abs().max() <= 1e-6


@pytest.mark.parametrize('iterations', [1, 2, 5, 20])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_columns_sum_to_their_share_at_any_iteration(eps, iterations):
    layer, _ = make(eps=eps, iterations=iterations)
    T = layer.plan(tokens_of(20))
    assert T.shape == (2, 2, 20, 9) and (T >= 0).all()
    torch.testing.assert_close(T.sum(-2), torch.full((2, 2, 9), 1 / 9, dtype=torch.float64), rtol=1e-12, atol=0)


def test_rows_sum_to_their_share_once_converged():
    layer, _ = make(iterations=60)
    few, _ = make(iterations=1)
    x = tokens_of(20)
    expected = torch.full((2, 2, 20), 1 / 20, dtype=torch.float64)
    torch.testing.assert_close(layer.plan(x).sum(-1), expected, rtol=1e-6, atol=0)
    assert (few.plan(x).sum(-1) * 20 - 1).abs().max() > 0.01


def test_plan_gives_padding_nothing():
    layer, _ = make(iterations=60)
    mask = torch.tensor([[True] * 12 + [False] * 8, [True] * 20])
    T = layer.plan(tokens_of(20), mask)
    assert not T[0, :, 12:].any()
    torch.testing.assert_close(T[0, :, :12].sum(-1), torch.full((2, 12), 1 / 12, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize('iterations', [1, 3, 60])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_implied_matrix_between_tokens_is_symmetric_positive_and_doubly_stochastic_but_for_the_rows(eps, iterations):
    n, m = 20, 6
    keys, references = unit_vectors(2, 3, n, 8), unit_vectors(3, m, 8, seed=1)
    similarity = Similarity('gaussian', 0.5, eps)
    T = plan(keys, references, similarity, iterations)
    P = transport(torch.eye(n, dtype=torch.float64).expand(2, 3, n, n), keys, references, similarity, iterations)

    torch.testing.assert_close(P, n * m * T @ T.transpose(-1, -2), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(P, P.transpose(-1, -2), rtol=1e-9, atol=1e-12)
    assert (P >= 0).all()
    # columns of T sum to 1/m at any iteration, and so P 1 = n m T T^T 1 = n T 1: what T lacks in its rows, P lacks
    rows = n * T.sum(-1)
    torch.testing.assert_close(P.sum(-1), rows, rtol=1e-10, atol=0)
    eigenvalues = torch.linalg.eigvalsh((P + P.transpose(-1, -2)) / 2)
    assert eigenvalues.min() > -1e-12
    assert (eigenvalues.amax(-1) <= rows.amax(-1) + 1e-10).all()  # no more than the largest row sum
    assert ((eigenvalues > 1e-10).sum(-1) <= m).all()
    if iterations == 60 and eps == MATRIX:
        torch.testing.assert_close(P.sum(-1), torch.ones_like(rows), rtol=1e-6, atol=0)


@pytest.mark.parametrize('eps', [MATRIX, LOG])
@pytest.mark.parametrize('tau', [0.05, 0.5, 3.])
@pytest.mark.parametrize('iterations', [1, 5])
def test_with_a_prior_both_ways_are_weighted_means(eps, tau, iterations):
    keys, references = unit_vectors(2, 3, 20, 8), unit_vectors(3, 9, 8, seed=1)
    similarity = Similarity('gaussian', 0.5, eps)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[1, 7:] = False
    constant = torch.tensor([1., -3.], dtype=torch.float64).expand(2, 3, 20, 2)
    for prior, real in ((position_prior_1d(20, 9, tau, keys), None), (position_prior_2d((4, 5), 9, tau, keys), None),
                        (position_prior_1d(20, 9, tau, keys, mask), mask)):
        cells = pooled(constant, keys, references, similarity, iterations, prior, real)
        torch.testing.assert_close(cells, constant[:, :, :9], rtol=1e-12, atol=0)
        out = transport(constant, keys, references, similarity, iterations, prior, real)
        torch.testing.assert_close(out, constant if real is None else constant * real[:, None, :, None], rtol=1e-12, atol=0)

        weights = transport(torch.eye(20, dtype=torch.float64).expand(2, 3, 20, 20), keys, references, similarity, iterations,
                            prior, real)
        assert (weights >= 0).all()  # so each output is a convex combination of values


@pytest.mark.parametrize('tau, expected', [(0.1, 0.95), (0.3, 0.34), (0.5, 0.26)])
def test_prior_makes_the_uniform_plan_local(tau, expected):
    """Share of a centre token's weight within a quarter of the side, at 56 x 56 tokens and 14 x 14 references."""
    like = torch.zeros(1, dtype=torch.float64)
    weights = position_prior_2d((56, 56), 196, tau, like).log.exp()
    pool, scatter = weights / weights.sum(0), weights / weights.sum(1, keepdim=True)
    row = scatter[28 * 56 + 28] @ pool.T
    centres = torch.tensor(definition.cell_centres(56, 56))
    near = (centres - centres[28 * 56 + 28]).square().sum(-1).sqrt() < 0.25
    assert row[near].sum() == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_tokens_without_prior_are_a_set(eps):
    layer, _ = make(eps=eps)
    x = tokens_of(20)
    order = torch.randperm(20)
    assert_close([layer(x[:, order])], [layer(x)[:, order]])

    with_prior, _ = make(eps=eps, prior='1d')
    assert (with_prior(x[:, order]) - with_prior(x)[:, order]).abs().max() > 1e-3


@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_references_without_prior_are_a_set(eps):
    outs = {}
    for prior in (None, '1d'):
        layer, _ = make(eps=eps, prior=prior)
        x = tokens_of(20)
        before = layer(x)
        with torch.no_grad():
            layer.references.copy_(layer.references[:, torch.randperm(9)])
        outs[prior] = layer(x) - before
    assert_close([outs[None]], [torch.zeros_like(outs[None])])
    assert outs['1d'].abs().max() > 1e-3


@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_repeated_tokens_change_nothing(eps):
    layer, _ = make(eps=eps)
    x = tokens_of(7)
    assert_close([layer(x.repeat_interleave(3, 1))], [layer(x).repeat_interleave(3, 1)])


def test_large_eps_gives_the_mean_and_the_deviation_falls_with_its_square():
    deviation = []
    for eps in (30., 300.):
        layer, _ = make(eps=eps)
        x = tokens_of(20)
        mean = layer.proj(layer.value(x).mean(1, keepdim=True))
        deviation.append((layer(x) - mean).abs().max().item())
    assert deviation[0] < 1e-2
    assert deviation[0] / deviation[1] == pytest.approx(100, rel=0.05)


def test_plan_of_small_eps_is_sharper():
    x = tokens_of(20)
    entropy = [row_entropy(make(eps=eps)[0].plan(x)).mean() for eps in (1., 0.1, 0.01)]
    assert 1 >= entropy[0] > entropy[1] > entropy[2] > 0


def test_row_entropy_is_1_where_uniform_and_0_where_one_reference_takes_all():
    torch.testing.assert_close(row_entropy(torch.full((2, 5, 7), 1 / 35)), torch.ones(2, 5))
    torch.testing.assert_close(row_entropy(torch.eye(7)[[3, 1, 1, 6]] / 4), torch.zeros(4))
    half = torch.tensor([[0.5, 0.5, 0., 0.]])
    torch.testing.assert_close(row_entropy(half), torch.tensor([0.5]))


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


# ---- memory ----


class PeakMemory(TorchDispatchMode):
    """Bytes of the tensors that operators made, at their largest."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.alive = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage.data_ptr(), storage.nbytes()
                if size and key not in self.alive:
                    self.alive.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._free, key, size)
        return out

    def _free(self, key, size):
        self.alive.discard(key)
        self.now -= size


def peak_bytes(layer, x):
    with PeakMemory() as memory:
        layer(x).square().sum().backward()
    return memory.peak


def saved_tensors(layer, x):
    """What the forward pass saves for the backward pass, storage by storage."""
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x)
    del out
    return list(saved.values())


def saved_bytes(layer, x):
    return sum(tensor.untyped_storage().nbytes() for tensor in saved_tensors(layer, x))


@pytest.mark.parametrize('recompute', [True, False])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
@pytest.mark.parametrize('measure', [peak_bytes, saved_bytes])
def test_memory_of_the_backward_pass_does_not_grow_with_the_iterations(measure, recompute, eps):
    x = tokens_of(2000, batch=1, dtype=torch.float32)
    used = [measure(make(num_references=16, recompute=recompute, eps=eps, iterations=iterations, dtype=torch.float32)[0], x)
            for iterations in (5, 20, 80)]
    assert used[0] > x.nbytes
    assert max(used) < 1.1 * used[0]


@pytest.mark.parametrize('prior', ['1d', None])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_recomputation_saves_no_plan(prior, eps):
    n, m = 97, 25
    sizes = {}
    for recompute in (True, False):
        layer, _ = make(num_references=m, prior=prior, recompute=recompute, eps=eps)
        sizes[recompute] = [tensor.numel() for tensor in saved_tensors(layer, tokens_of(n))]
    assert sizes[True] and not any(size % (n * m) == 0 for size in sizes[True])
    assert any(size % (n * m) == 0 for size in sizes[False])


@pytest.mark.parametrize('recompute', [True, False])
@pytest.mark.parametrize('measure', [peak_bytes, saved_bytes])
@pytest.mark.parametrize('prior', ['1d', None])
def test_memory_grows_linearly_with_the_tokens(measure, recompute, prior):
    layer, _ = make(num_references=16, recompute=recompute, prior=prior, dtype=torch.float32)
    small, large = (measure(layer, tokens_of(n, batch=1, dtype=torch.float32)) for n in (1000, 4000))
    assert 3.5 * small < large <= 4.2 * small


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


@pytest.mark.parametrize('recompute', [True, False])
def test_recomputation_changes_no_value(recompute):
    layer, _ = make(prior='1d', recompute=recompute)
    x = tokens_of(20)
    with torch.no_grad():
        plain = layer(x)
    assert_close([layer(x)], [plain], 1e-14)


# ---- underflow ----

UNDERFLOWS = [dict(eps=1e-40), dict(eps=1e-40, similarity='dot', prior='1d'), dict(tau=1e-30, prior='1d')]


@pytest.mark.parametrize('kwargs', UNDERFLOWS, ids=str)
def test_debug_reports_a_plan_that_underflows(kwargs):
    layer, _ = make(dtype=torch.float32, debug=True, **kwargs)
    with pytest.raises(FloatingPointError, match=r'plan underflows: .*eps=.*tau=.*choose a larger eps'):
        layer(tokens_of(20, dtype=torch.float32))


@pytest.mark.parametrize('kwargs', UNDERFLOWS, ids=str)
def test_anomaly_detection_reports_it_too(kwargs):
    layer, _ = make(dtype=torch.float32, **kwargs)
    with torch.autograd.set_detect_anomaly(True), pytest.raises(FloatingPointError, match='plan underflows: .*eps='):
        layer(tokens_of(20, dtype=torch.float32))


@pytest.mark.parametrize('eps', [1e-3, LOG, MATRIX, 1., 100.])
@pytest.mark.parametrize('prior', ['1d', None])
@pytest.mark.parametrize('similarity', ['gaussian', 'dot'])
def test_no_report_at_sane_settings(eps, prior, similarity):
    layer, _ = make(eps=eps, prior=prior, similarity=similarity, dtype=torch.float32, debug=True)
    mask = torch.rand(2, 20) < 0.7
    layer(tokens_of(20, dtype=torch.float32), mask)
    with torch.autograd.set_detect_anomaly(True):
        layer(tokens_of(20, dtype=torch.float32)).sum().backward()


def test_report_tells_input_that_is_not_finite_from_underflow():
    layer, _ = make(dtype=torch.float32, debug=True)
    x = torch.full((2, 20, 16), math.nan)
    with pytest.raises(FloatingPointError, match='the tokens that came in are not finite'):
        layer(x)


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
    (dict(head_dim=12), 'head_dim=12 does not divide channels=16; choose a divisor of the channels'),
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
