"""The plan of self-optimal transport: an independent solver, its marginals and its algebra, and what underflow does."""
import math

import ot
import pytest
import torch
from layers.transport_cases import LOG, MATRIX, assert_close, make, recovered_plan, tokens_of, transport, unit_vectors
from reference import optimal_transport as definition

from hybrid_mm.layers.transport.definition import Similarity, position_prior_1d, position_prior_2d, row_entropy
from hybrid_mm.layers.transport.plain import plan, pool


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
        cells = pool(constant, keys, references, similarity, iterations, prior, real)[0]
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
