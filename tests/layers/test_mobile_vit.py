import pytest
import torch

from hybrid_mm.layers.mobile_vit import MobileViTBlock, TransformerLayer, fold, unfold


@pytest.mark.parametrize('size, p', [((4, 6), 2), ((6, 3), 3), ((2, 2), 1)], ids=str)
def test_folding_undoes_unfolding(size, p):
    x = torch.randn(2, 5, *size)
    tokens = unfold(x, p)
    assert tokens.shape == (2, p * p, size[0] * size[1] // p**2, 5)
    assert torch.equal(fold(tokens, size[0] // p, size[1] // p, p), x)


def test_a_token_set_holds_one_position_of_every_patch():
    x = torch.arange(16.).view(1, 1, 4, 4)
    assert unfold(x, 2)[0, :, :, 0].tolist() == [[0, 2, 8, 10], [1, 3, 9, 11], [4, 6, 12, 14], [5, 7, 13, 15]]


def test_token_sets_do_not_see_each_other():
    torch.manual_seed(0)
    layer = TransformerLayer(8, 2).double()
    x = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    changed = x.clone()
    changed[0, 1, 2] = torch.randn(8)
    moved = (layer(changed) - layer(x)).abs().amax(-1) > 1e-9
    expected = torch.zeros(2, 4, 5, dtype=torch.bool)
    expected[0, 1] = True
    assert torch.equal(moved, expected)


def test_attention_equals_torchs_module():
    torch.manual_seed(0)
    layer = TransformerLayer(12, 3).double()
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = layer.qkv.weight.data, layer.qkv.bias.data
    theirs.out_proj = layer.proj
    torch.nn.init.zeros_(layer.mlp[2].weight)
    torch.nn.init.zeros_(layer.mlp[2].bias)
    x = torch.randn(2, 3, 7, 12, dtype=torch.float64)
    sets = layer.norm1(x).view(6, 7, 12)
    torch.testing.assert_close(layer(x) - x, theirs(sets, sets, sets)[0].view(x.shape), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('size', [(1, 1), (4, 4), (5, 4), (3, 7)], ids=str)
def test_any_size_and_memory_format_run(size):
    torch.manual_seed(0)
    block = MobileViTBlock(6, 8, 1, num_heads=2).eval()
    x = torch.randn(2, 6, *size)
    out = block(x)
    assert out.shape == x.shape
    torch.testing.assert_close(block(x.contiguous(memory_format=torch.channels_last)), out)


def test_width_must_be_a_multiple_of_the_heads():
    with pytest.raises(ValueError, match='width=10 is not allowed; choose a multiple of num_heads=4'):
        MobileViTBlock(8, 10, 1)
