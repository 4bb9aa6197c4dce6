"""The global-local module: its definition, the geometry of windows, and what a class token changes."""
import pytest
import torch
from reference.global_local import attention, on_map, on_tokens
from torch import nn

from hybrid_mm.layers import GlobalLocal, GlobalLocalBlock
from hybrid_mm.layers.global_local import DepthwiseConv1d, GatedConv, PointwiseConv1d

GROUPS = [(3, 0), (2, 1), (1, 2), (0, 3)]


def randomise(module):
    """Weights of some size, norms and running statistics unlike their start: every part counts in the outputs."""
    torch.manual_seed(0)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if name.endswith('running_var') else 0.3 * torch.randn_like(value))
            if value.ndim == 1 and name.endswith('weight'):
                value.add_(1)
    return module


def build(groups=(1, 2), channels=12, num_heads=3, kernel_size=7, expansion=2, qk_ratio=0.5, window_size=4, **kwargs):
    layer = GlobalLocal(channels, num_heads, *groups, kernel_size, expansion, qk_ratio, window_size, **kwargs)
    return randomise(layer.double())


def random(*shape, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_close(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def results(layer, run, x):
    """Output, and gradients of input and parameters."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = run(x)
    out.mul(random(*out.shape)).sum().backward()
    return [out, x.grad, *(p.grad for p in layer.parameters())]


# ---- the definition ----


@pytest.mark.parametrize('groups', GROUPS, ids=str)
@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
def test_tokens_agree_with_the_definition(groups, training):
    layer = build(groups).train(training)
    x = random(2, 11, 12)
    assert_close(results(layer, layer, x), results(layer, lambda x: on_tokens(layer, x), x))


@pytest.mark.parametrize('groups', GROUPS, ids=str)
@pytest.mark.parametrize('attend_globally', [True, False], ids=['global', 'windowed'])
@pytest.mark.parametrize('size, training', [((4, 8), True), ((5, 7), True), ((5, 7), False), ((9, 3), False), ((1, 2), True)],
                         ids=str)
def test_maps_agree_with_the_definition(groups, attend_globally, size, training):
    layer = build(groups, attend_globally=attend_globally).train(training)
    x = random(2, 12, *size)
    assert_close(results(layer, layer, x), results(layer, lambda x: on_map(layer, x, 4, attend_globally), x))


@pytest.mark.parametrize('qk_ratio, expansion', [(0.5, 1), (1, 4), (2, 2)])
def test_widths_of_both_parts(qk_ratio, expansion):
    layer = build((1, 2), channels=18, num_heads=9, kernel_size=5, expansion=expansion, qk_ratio=qk_ratio * 1.)
    assert layer.attn.num_heads == 3
    assert {name: tuple(value.shape) for name, value in layer.state_dict().items() if value.ndim > 1} == {
        'attn.qkv.weight': (3 * int(6 * qk_ratio), 6), 'attn.proj.weight': (6, int(6 * qk_ratio)),
        'conv.expand.weight': (2 * 12 * expansion, 12, 1), 'conv.depthwise.weight': (12 * expansion, 1, 5),
        'conv.project.weight': (12, 12 * expansion, 1)}
    x = random(1, 6, 18)
    assert_close([layer.eval()(x)], [on_tokens(layer, x)])


def test_a_part_without_groups_does_not_exist():
    attention, convolution = build((3, 0), kernel_size=None, expansion=None), build((0, 3), num_heads=5, qk_ratio=None)
    assert {name.split('.')[0] for name in attention.state_dict()} == {'attn'}
    assert {name.split('.')[0] for name in convolution.state_dict()} == {'conv'}


def test_first_channels_attend_and_last_ones_are_convolved():
    layer = build((1, 2)).eval()
    x, far = random(1, 20, 12), random(1, 20, 12, seed=2)
    far[:, :10] = x[:, :10]  # another end of the sequence: attention sees it at the start, the kernel of 7 does not
    ours, other = layer(x), layer(far)
    assert ((ours - other)[:, :7, :4].abs() > 1e-6).all()
    assert torch.equal(ours[:, :7, 4:], other[:, :7, 4:])


def test_block_adds_mixer_and_mlp_of_normed_tokens():
    layer = build((1, 2)).eval()
    block = randomise(GlobalLocalBlock(layer, 12, 1.5).double()).eval()
    x = random(2, 9, 12)

    def norm(layer, x):
        x = (x - x.mean(2, keepdim=True)) / (x.var(2, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return x * layer.weight + layer.bias

    y = x + on_tokens(layer, norm(block.norm1, x))
    hidden = norm(block.norm2, y) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    assert hidden.shape[2] == 18
    expected = y + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
    assert_close([block(x)], [expected])
    assert_close([block(x.transpose(1, 2).reshape(2, 12, 3, 3))],
                 [block_on_map(block, x.transpose(1, 2).reshape(2, 12, 3, 3))])


def block_on_map(block, x):
    def at_each_position(layer, x):
        columns = [layer(x[:, :, i, j]) for i in range(x.shape[2]) for j in range(x.shape[3])]
        return torch.stack(columns, dim=2).reshape(x.shape)

    x = x + on_map(block.mixer, at_each_position(block.norm1, x), 4, False)
    return x + at_each_position(block.mlp, at_each_position(block.norm2, x))


def test_both_branches_of_a_block_are_dropped():
    class Drop(nn.Module):
        def forward(self, x):
            return 0 * x

    block = GlobalLocalBlock(build(), 12, 2, Drop()).double()
    x = random(1, 12, 3, 4)
    assert torch.equal(block(x), x)


# ---- convolutions with the channels in the last axis ----


@pytest.mark.parametrize('shape', [(2, 9, 6), (1, 1, 6), (3, 50, 6)], ids=str)
def test_convolutions_are_those_of_torch(shape):
    x = random(*shape)
    for layer in (PointwiseConv1d(6, 10), DepthwiseConv1d(6, 7)):
        layer = layer.double()
        plain = nn.Conv1d(6, layer.out_channels, layer.kernel_size[0], padding=layer.kernel_size[0] // 2, groups=layer.groups)
        plain.double().load_state_dict(layer.state_dict())
        ours = results(layer, layer, x)
        assert ours[0].is_contiguous()
        assert_close(ours, results(plain, lambda x: plain(x.transpose(1, 2)).transpose(1, 2), x))


# ---- image and dense mode ----


@pytest.mark.parametrize('attend_globally', [True, False])
@pytest.mark.parametrize('groups', GROUPS, ids=str)
def test_one_full_window_is_the_whole_sequence(groups, attend_globally):
    layer = build(groups, kernel_size=31, window_size=14, attend_globally=attend_globally)
    x = random(2, 12, 14, 14)
    tokens = x.flatten(2).transpose(1, 2)
    for training in (True, False):
        layer.train(training)
        assert_close([layer(x).flatten(2).transpose(1, 2)], [layer(tokens)])


def test_class_token_reaches_the_first_patches_through_the_kernel_alone():
    """Left of the first patch stands the class token in image mode, and zeros in dense mode: K // 2 tokens see the difference.

    Where the class token's gated channels are zero, nothing differs.
    """
    layer = build((0, 3), kernel_size=31, window_size=14).eval()
    x = random(2, 12, 14, 14)
    patches, first = x.flatten(2).transpose(1, 2), random(2, 1, 12)
    dense = layer(x).flatten(2).transpose(1, 2)

    image = layer(torch.cat([first, patches], dim=1))[:, 1:]
    assert_close([dense[:, 15:]], [image[:, 15:]])
    assert (dense - image)[:, :15].abs().amax(2).min() > 1e-6

    conv = layer.conv
    closed = torch.linalg.lstsq(conv.expand.weight[:, :, 0][:12], -conv.expand.bias[:12]).solution  # the first 12 are zero
    gated = nn.functional.glu(conv.expand(closed), dim=-1)
    assert gated[:12].abs().max() < 1e-9
    with torch.no_grad():  # and with no tap on the others
        conv.depthwise.weight[12:] = 0
    dense = layer(x).flatten(2).transpose(1, 2)
    image = layer(torch.cat([closed.expand(2, 1, -1), patches], dim=1))[:, 1:]
    assert_close([dense], [image])


def test_class_token_is_one_more_key_of_attention():
    layer = build((3, 0), window_size=14)
    x = random(1, 12, 4, 4)
    patches = x.flatten(2).transpose(1, 2)
    tokens = torch.cat([random(1, 1, 12), patches], dim=1)
    dense = layer(x).flatten(2).transpose(1, 2)
    assert ((dense - layer(tokens)[:, 1:]).abs() > 1e-6).all()
    without = attention(layer.attn, tokens, [[0], list(range(1, 17))])  # the same patches do not see it
    assert_close([dense], [without[:, 1:]])


# ---- windows ----


@pytest.mark.parametrize('size', [(14, 14), (3, 5), (20, 17)], ids=str)
def test_taps_keep_the_neighbours_of_pre_training_at_every_size(size):
    """Fourteen tokens further is one row below, in a window: never a column of a longer row, or the next window."""
    conv = GatedConv(1, 31, 1, 14).double().eval()
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.zero_()
        conv.expand.weight[0] = 1.
        conv.expand.bias[1] = 100.  # an open gate
        conv.depthwise.weight[0, 0, 15 + 14] = 1.
        conv.norm.weight.fill_((1 + conv.norm.eps)**0.5)
        conv.project.weight.fill_(1.)
    H, W = size
    x = random(1, H, W, 1)
    below = torch.zeros_like(x)
    for row in range(H - 1):
        if row % 14 != 13:
            below[:, row] = x[:, row + 1]
    assert_close([conv(x)], [nn.functional.silu(below)])


@pytest.mark.parametrize('groups', [(3, 0), (0, 3)], ids=['attention', 'convolution'])
def test_nothing_crosses_the_border_of_a_window(groups):
    layer = build(groups, kernel_size=31).eval()
    x = random(1, 12, 10, 6)
    x.requires_grad_()
    layer(x)[:, :, 5, 1].sum().backward()
    seen = x.grad.abs().sum((0, 1)) > 0
    expected = torch.zeros(10, 6, dtype=torch.bool)
    expected[4:8, :4] = True
    assert torch.equal(seen, expected)


def test_global_attention_reaches_the_whole_map():
    layer = build((3, 0), attend_globally=True)
    x = random(1, 12, 10, 6).requires_grad_()
    layer(x)[:, :, 5, 1].sum().backward()
    assert (x.grad.abs().sum((0, 1)) > 0).all()


@pytest.mark.parametrize('groups', [(3, 0), (0, 3)], ids=['attention', 'convolution'])
def test_padded_positions_have_no_influence(groups):
    """Windows are the same whether the map ends behind them or goes on, and those at the edge are as of a map cut to them."""
    layer = build(groups, kernel_size=15).eval()
    x = random(1, 12, 11, 6)
    whole = layer(x)
    assert_close([whole[:, :, :8, :4]], [layer(x[:, :, :8, :4])])
    assert_close([whole[:, :, 8:, 4:]], [layer(x[:, :, 8:, 4:])])


@pytest.mark.parametrize('size', [(5, 7), (4, 4), (1, 9)], ids=str)
def test_statistics_are_those_of_the_positions_on_the_map(size):
    layer = build((0, 3)).train()
    norm = layer.conv.norm
    norm.reset_running_stats()
    seen = []
    norm.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    layer(random(2, 12, *size))
    assert seen[0].shape == (2, 24, *size)
    values = seen[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(norm.running_mean, 0.1 * values.mean(1))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * values.var(1))


# ---- formats, precision, compilation ----


@pytest.mark.parametrize('groups', GROUPS, ids=str)
def test_memory_format_changes_nothing(groups):
    layer = build(groups).eval()
    x = random(2, 12, 6, 5)
    out = layer(x.contiguous(memory_format=torch.channels_last))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_close([layer(x)], [out])


@pytest.mark.parametrize('shape', [(2, 10, 12), (2, 12, 5, 6)], ids=['tokens', 'map'])
def test_bf16_training_is_finite(shape):
    block = GlobalLocalBlock(build().float(), 12, 2)
    with torch.autocast('cpu', torch.bfloat16):
        out = block(torch.randn(shape))
    out.float().square().mean().backward()
    assert out.shape == shape and out.isfinite().all()
    assert all(p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize('shape', [(2, 10, 12), (2, 12, 5, 6)], ids=['tokens', 'map'])
def test_compiles_into_one_graph(shape):
    block = GlobalLocalBlock(build(), 12, 2).double().eval()
    compiled = torch.compile(block, backend='eager', fullgraph=True, dynamic=False)
    x = random(*shape)
    with torch.no_grad():
        assert_close([compiled(x)], [block(x)])


# ---- bad input ----


@pytest.mark.parametrize('arguments, message', [
    (dict(groups=(0, 0)), 'global_groups=0 and local_groups=0 are not allowed; choose 0 or more, and not 0 for both'),
    (dict(groups=(4, -1)), 'global_groups=4 and local_groups=-1 are not allowed'),
    (dict(channels=16), 'channels=16 is no multiple of the 3 groups'),
    (dict(window_size=0), 'window_size=0 is not allowed; choose 1 or more'),
    (dict(num_heads=5), 'num_heads=5 is not allowed; choose a divisor of channels=12 of which 1 of 3 groups'),
    (dict(num_heads=4), 'num_heads=4 is not allowed'),
    (dict(num_heads=0), 'num_heads=0 is not allowed'),
    (dict(kernel_size=30), 'kernel_size=30 is not allowed; choose an odd number'),
    (dict(kernel_size=-1), 'kernel_size=-1 is not allowed'),
    (dict(kernel_size=None), 'kernel_size=None is not allowed'),
    (dict(expansion=0), 'expansion=0 is not allowed; choose a number above 0'),
    (dict(expansion=1.3), 'expansion=1.3 is not allowed; .* of which the 8 channels make a whole number'),
    (dict(qk_ratio=0.3), 'qk_ratio=0.3 is not allowed; .* of which the 4 channels of a head make a whole number'),
    (dict(qk_ratio=None), 'qk_ratio=None is not allowed'),
], ids=str)
def test_bad_argument_is_one_error_that_names_it(arguments, message):
    with pytest.raises(ValueError, match=message):
        build(**arguments)


@pytest.mark.parametrize('mlp_ratio', [0, -1, 0.3, None])
def test_bad_width_of_the_mlp_is_refused(mlp_ratio):
    with pytest.raises(ValueError, match=f'mlp_ratio={mlp_ratio} is not allowed'):
        GlobalLocalBlock(nn.Identity(), 12, mlp_ratio)
