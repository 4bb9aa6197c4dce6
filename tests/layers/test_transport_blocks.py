"""Self-optimal transport in blocks of tokens: equal to the plain computation, and where it is taken."""
import pytest
import torch
import torch.nn.functional as F
from layers.transport_cases import CASES, LOG, MATRIX, assert_close, make, results, tokens_of
from torch.autograd import gradcheck

from hybrid_mm.layers.transport import blocks, plain
from hybrid_mm.layers.transport.choice import choose
from hybrid_mm.layers.transport.definition import NARROW, Similarity, position_prior_1d
from hybrid_mm.layers.transport.layer import _Unit


@pytest.fixture
def small_blocks(monkeypatch):
    """Seven tokens a block, so that the last one of 20 is smaller."""
    monkeypatch.setattr(blocks, '_SMALLEST', 7)
    monkeypatch.setattr(blocks, '_BYTES', 1)


def by_both(x, mask=None, size=None, **kwargs):
    both = []
    for backend in ('blocks', 'plain'):
        layer, _ = make(backend=backend, **kwargs)
        both.append(results(lambda x: layer(x, mask, size), x, list(layer.parameters())))
    return both


@pytest.mark.parametrize('case', [case for case in CASES if case['eps'] == MATRIX], ids=str)
@pytest.mark.parametrize('nystrom', [False, True])
def test_several_blocks_equal_the_plain_computation(small_blocks, case, nystrom):
    assert len(list(blocks._blocks(torch.zeros(2, 2, 20, 9)))) == 3
    assert_close(*by_both(tokens_of(20), size=(4, 5), nystrom=nystrom, **case), 1e-12)


@pytest.mark.parametrize('prior', ['1d', None])
def test_several_blocks_with_padding_equal_the_plain_computation(small_blocks, prior):
    mask = torch.ones(3, 20, dtype=torch.bool)
    mask[0, 12:] = False
    mask[1] = False  # padding alone
    assert_close(*by_both(tokens_of(20, batch=3), mask, prior=prior), 1e-12)


def test_blocks_cover_every_token_once_and_hold_the_bytes_they_may():
    K = torch.empty(1, 2, 20000, 49)
    covered = torch.zeros(1, 2, 20000, 1)
    for block in blocks._blocks(K):
        covered[block] += 1
        assert 0 < K[block].numel() * 4 <= 1.5 * blocks._BYTES
    assert (covered == 1).all()


def test_a_cpu_takes_blocks_where_the_kernel_is_in_range():
    values, references = torch.zeros(1, 2, 20, 8), torch.zeros(2, 9, 8)
    wide, narrow = Similarity('gaussian', 0.5, LOG), Similarity('gaussian', 0.5, MATRIX)
    assert choose(values, references, narrow) is blocks.transport
    assert choose(values, references, wide) is plain.transport
    assert choose(values, references, narrow, position_prior_1d(20, 9, 0.1, values)) is plain.transport  # 1/eps + 1/tau^2: 110
    assert choose(values, references, narrow, backend='plain') is plain.transport
    assert choose(values.to('meta'), references.to('meta'), narrow) is plain.transport


def test_blocks_that_cannot_run_are_refused():
    layer, _ = make(eps=LOG, backend='blocks')
    with pytest.raises(RuntimeError, match=r"backend='blocks' cannot transport .* eps=0.01 .* choose backend='auto'"):
        layer(tokens_of(20))


def test_range_of_the_kernel_is_that_of_float32():
    narrow = NARROW
    assert Similarity('dot', eps=2 / narrow).is_narrow(None) and not Similarity('dot', eps=1.99 / narrow).is_narrow(None)


def test_unit_vectors_are_those_of_torch_with_their_gradient():
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64).transpose(1, 2).requires_grad_()
    weight = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    ours, theirs = _Unit.apply(x), F.normalize(x, dim=-1)
    gradients = [torch.autograd.grad((unit * weight).sum(), x)[0] for unit in (ours, theirs)]
    assert_close([ours, gradients[0]], [theirs, gradients[1]], 1e-14)
    assert gradcheck(_Unit.apply, (x, ))
    assert not _Unit.apply(torch.zeros(3, 4)).any()
