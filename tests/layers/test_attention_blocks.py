"""Attention block by block, against PyTorch's."""
import pytest
import torch
import torch.nn.functional as F

from hybrid_mm.layers import attention_blocks
from hybrid_mm.layers.attention import attend, attend_among
from hybrid_mm.layers.attention_blocks import attend_among_in_blocks, attend_in_blocks
from hybrid_mm.layers.tracing import plain

BLOCKS = [2**17, 60, 20]  # all at once, some windows, some queries


def tokens(B, heads, N, M, d, dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(B, heads, n, d, dtype=dtype, requires_grad=True) for n in (N, M, M)]


@pytest.mark.parametrize('block', BLOCKS)
@pytest.mark.parametrize('masked', [False, True])
def test_values_and_gradients_are_those_of_torch(masked, block, monkeypatch):
    monkeypatch.setattr(attention_blocks, '_BLOCK', {8: block})
    q, k, v = tokens(3, 2, 10, 7, 4)
    mask = torch.rand(3, 1, 1, 7) > 0.4 if masked else None
    out, expected = attend_in_blocks(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(out)
    for found, wanted in zip(torch.autograd.grad(out, (q, k, v), grad), torch.autograd.grad(expected, (q, k, v), grad)):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('block', BLOCKS)
def test_packed_tokens_get_their_gradient_packed(block, monkeypatch):
    monkeypatch.setattr(attention_blocks, '_BLOCK', {8: block})
    qkv = torch.randn(3, 6, 24, dtype=torch.float64, requires_grad=True)
    out, expected = attend_among_in_blocks(qkv, 2), attend_among(qkv, 2)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(out)
    torch.testing.assert_close(*(torch.autograd.grad(o, qkv, grad)[0] for o in (out, expected)), rtol=1e-10, atol=1e-10)
    assert torch.autograd.gradgradcheck(lambda t: attend_among_in_blocks(t, 2), qkv)


def test_gradients_can_be_differentiated():
    q, k, v = tokens(2, 1, 4, 3, 2)
    assert torch.autograd.gradcheck(attend_in_blocks, (q, k, v))
    assert torch.autograd.gradgradcheck(attend_in_blocks, (q, k, v))


@pytest.mark.parametrize('B, heads, N, M', [(40, 2, 64, 64), (1, 2, 300, 60)])
def test_bfloat16_takes_blocks_and_is_as_close_as_products(B, heads, N, M):
    exact = tokens(B, heads, N, M, 64, torch.float32)

    def products(q, k, v):
        return (q @ k.transpose(2, 3) * q.shape[3]**-0.5).softmax(-1) @ v

    def run(tensors, attend=attend):
        out = attend(*tensors)
        return out.grad_fn.name(), [out.float(), *(g.float() for g in torch.autograd.grad(out.float().square().sum(), tensors))]

    half = [t.detach().bfloat16().requires_grad_() for t in exact]
    wanted, (name, found) = run([t.detach().float().requires_grad_() for t in half])[1], run(half)
    assert '_Attention' in name
    for a, b, c in zip(found, run(half, products)[1], wanted):
        assert (a - c).norm() < 1.2 * (b - c).norm() and (a - c).norm() < 0.02 * c.norm()
    with plain():
        assert 'DotProduct' in run(half)[0]


def test_float32_takes_blocks_for_many_windows_of_one_head():
    names = [attend(*tokens(B, heads, 4, 4, 2, torch.float32)).grad_fn.name() for B, heads in ((256, 1), (255, 1), (256, 2))]
    assert ['_Attention' in name for name in names] == [True, False, False]


def test_no_weights_and_no_output_are_kept():
    q, k, v = tokens(40, 1, 64, 64, 8, torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attend_in_blocks(q, k, v)
    assert {tensor.data_ptr() for tensor in kept} == {t.data_ptr() for t in (q, k, v)}
