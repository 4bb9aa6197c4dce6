import pytest
import torch
from reference import h_mhsa as plain
from torch import nn

from hybrid_mm.layers import HMHSA, IterativeHMHSA, h_mhsa

SIZES = [(16, 16), (8, 24), (13, 21), (9, 5), (3, 30), (1, 1), (1, 17)]
FORMS = {
    'two_step': (lambda **kw: HMHSA(16, head_dim=8, grid_size=4, pool_ratio=4, **kw), plain.two_step),
    'two_step_global': (lambda **kw: HMHSA(16, head_dim=8, grid_size=1, **kw), plain.two_step),
    'iterative': (lambda **kw: IterativeHMHSA(16, head_dim=8, grid_sizes=(4, 3, 2), **kw), plain.iterative),
    'iterative_shared': (lambda **kw: IterativeHMHSA(16, 8, (4, 2), share_qkv=True, **kw), plain.iterative),
}


def group_norm(channels):
    return nn.GroupNorm(1, channels)


def make(form, **kwargs):
    torch.manual_seed(0)
    layer = FORMS[form][0](**kwargs).double()
    for p in layer.parameters():
        nn.init.normal_(p, std=0.5)
    return layer


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('form', FORMS)
def test_values_and_gradients_equal_the_plain_definition(form, size):
    layer = make(form, norm_layer=group_norm)
    x = torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    results = []
    for run in (layer, lambda x: FORMS[form][1](layer, x)):
        out = run(x)
        grads = torch.autograd.grad((out * weight).sum(), [x, *layer.parameters()])
        results.append([out, *grads])
    for ours, theirs in zip(*results):
        # gradients that vanish in exact arithmetic (of the key biases) are rounding on both sides: an absolute floor
        assert (ours - theirs).abs().max() <= 1e-9 * max(theirs.abs().max().item(), 1.)


@pytest.mark.parametrize('form', FORMS)
def test_gradcheck(form):
    layer = make(form, norm_layer=group_norm)
    x = torch.randn(1, 16, 5, 1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, ))


@pytest.mark.parametrize('form', FORMS)
def test_every_parameter_gets_a_gradient_on_a_single_position(form):
    layer = make(form, norm_layer=group_norm)
    layer(torch.randn(2, 16, 1, 1, dtype=torch.float64)).square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('memory_format', [torch.channels_last, torch.contiguous_format])
def test_memory_format_of_the_input_is_kept(form, memory_format):
    layer = make(form)
    x = torch.randn(2, 16, 9, 10, dtype=torch.float64)
    out = layer(x.contiguous(memory_format=memory_format))
    assert out.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(out, layer(x), rtol=1e-10, atol=1e-10)


def test_divisible_map_through_the_masked_path_is_the_same(monkeypatch):
    layer, x = make('two_step'), torch.randn(2, 16, 8, 12, dtype=torch.float64)
    expected = layer(x)
    masks = []

    def always_masked(H, W, grid, device):
        masks.append(torch.ones(H // grid[0] * (W // grid[1]), grid[0] * grid[1], dtype=torch.bool))
        return masks[-1]

    monkeypatch.setattr(h_mhsa, 'window_key_mask', always_masked)
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert len(masks) == 1


def test_garbage_in_the_padding_does_not_change_the_result(monkeypatch):
    qkv = torch.randn(2, 48, 9, 10, dtype=torch.float64)
    expected = h_mhsa.grid_attention(qkv, 2, 4)
    partition, padded = h_mhsa.window_partition, []

    def garbage(x, grid):
        windows = partition(x, grid)
        if x.shape[-1] > 1:  # the map itself, not the mask
            on_map = partition(torch.ones_like(x), grid) > 0
            padded.append((~on_map).any())
            windows = torch.where(on_map, windows, 1e3 * torch.randn_like(windows))
        return windows

    monkeypatch.setattr(h_mhsa, 'window_partition', garbage)
    torch.testing.assert_close(h_mhsa.grid_attention(qkv, 2, 4), expected, rtol=1e-12, atol=1e-12)
    assert padded == [True]


@pytest.mark.parametrize('size', [(8, 12), (7, 5), (1, 9)], ids=str)
def test_unpartition_undoes_partition(size):
    x = torch.randn(2, *size, 3)
    windows = h_mhsa.window_partition(x, (4, 3))
    assert windows.shape == (2, -(-size[0] // 4) * -(-size[1] // 3), 12, 3)
    assert torch.equal(h_mhsa.window_unpartition(windows, (4, 3), *size), x)


def test_positions_see_their_grid_and_the_pooled_map_alone():
    """Without the second step a change stays in its grid; with it, everything sees everything."""
    qkv = torch.randn(1, 48, 8, 8)
    changed = qkv.clone()
    changed[..., 0, 0] += 1
    moved = (h_mhsa.grid_attention(changed, 2, 4) - h_mhsa.grid_attention(qkv, 2, 4)).abs().sum(1)[0] > 0
    assert moved[:4, :4].all() and moved.sum() == 16

    layer, x = make('two_step').eval(), torch.randn(1, 16, 8, 8, dtype=torch.float64)
    far = x.clone()
    far[..., 0, 0] += 1
    assert ((layer(far) - layer(x)).abs().sum(1) > 0).all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('form', FORMS)
def test_autocast_stays_close_to_full_precision(form, dtype):
    torch.manual_seed(0)
    layer, x = FORMS[form][0](), torch.randn(2, 16, 9, 10)
    with torch.autocast('cpu', dtype=dtype):
        out = layer(x)
        out.float().square().mean().backward()
    assert out.dtype == dtype
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())
    assert (out.float() - layer(x)).abs().max() < 0.05


@pytest.mark.parametrize('bad, message', [
    (lambda: HMHSA(96, head_dim=64), 'head_dim=64 does not divide channels=96; choose a positive divisor of 96'),
    (lambda: HMHSA(64, grid_size=0), 'grid_size=0 is not allowed; choose 1 or more'),
    (lambda: HMHSA(64, pool_ratio=0), 'pool_ratio=0 is not allowed; choose 1 or more'),
    (lambda: IterativeHMHSA(64, head_dim=0), 'head_dim=0 does not divide channels=64'),
    (lambda: IterativeHMHSA(64, grid_sizes=(8, 0)), 'grid_sizes=0 is not allowed; choose 1 or more'),
    (lambda: IterativeHMHSA(64, grid_sizes=()), 'grid_sizes=() is empty; give one grid size a step'),
])
def test_bad_arguments_are_named(bad, message):
    with pytest.raises(ValueError) as error:
        bad()
    assert message in str(error.value)
