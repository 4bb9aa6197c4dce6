"""Operators equal their plain definitions at any shape and any setting, values and gradients."""
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from properties.drawn import drawn
from reference import global_local, h_mhsa, optimal_transport
from reference.parc import parc
from torch import nn

from hybrid_mm.backbones.glit import PatchEmbedding
from hybrid_mm.engine import VariableSizeHook
from hybrid_mm.layers import (
    HMHSA,
    GlobalLocal,
    IterativeHMHSA,
    ParC2d,
    ParCHW,
    SelfOptimalTransport,
    SelfOptimalTransport2d,
    attention,
)
from hybrid_mm.layers.parc.modules import resize

SIDES = st.integers(1, 14)
SEEDS = st.integers(0, 99)
BATCHES = st.integers(1, 3)
FORMATS = st.sampled_from([torch.contiguous_format, torch.channels_last])


def randomise(layer, seed, std=0.5):
    """A float64 layer with values of the order of 1 everywhere."""
    torch.manual_seed(seed)
    for name, value in layer.double().state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if name.endswith('running_var') else std * torch.randn_like(value))
    return layer


def results(run, x, parameters):
    """Output, and gradients of input and parameters for a fixed cotangent."""
    out = run(x)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out, *torch.autograd.grad(out, [x, *parameters], cotangent, materialize_grads=True)]


def assert_equal(layer, definition, x, tolerance=1e-9, ours=None):
    """The layer, or what calls it, against the definition."""
    parameters = list(layer.parameters())
    for value, plain in zip(results(ours or layer, x, parameters), results(definition, x, parameters), strict=True):
        assert value.shape == plain.shape
        assert (value - plain).abs().max() <= tolerance * max(plain.abs().max().item(), 1.)


def map_of(*shape, memory_format=torch.contiguous_format):
    return torch.randn(*shape, dtype=torch.float64).contiguous(memory_format=memory_format).requires_grad_()


# ---- ParC ----


@drawn(60, batch=BATCHES, channels=st.integers(1, 4), height=SIDES, width=SIDES, base_size=st.integers(1, 20),
       axis=st.sampled_from('HW'), depthwise=st.booleans(), bias=st.booleans(), pos_embed=st.booleans(), seed=SEEDS,
       backend=st.sampled_from(['direct', 'fft', 'gemm', 'auto']), memory_format=FORMATS)
def test_parc(batch, channels, height, width, base_size, axis, depthwise, bias, pos_embed, seed, backend, memory_format):
    layer = randomise(ParC2d(channels, axis, base_size, depthwise, bias, pos_embed, backend), seed)
    x = map_of(batch, channels, height, width, memory_format=memory_format)

    def definition(x):
        return parc(x, layer.weight, layer.bias, layer.pos_embed, axis)

    assert_equal(layer, definition, x)
    layer.eval()
    with torch.no_grad():  # by what is kept in evaluation, made and found
        for _ in range(2):
            assert (layer(x) - definition(x)).abs().max() <= 1e-9 * max(1, definition(x).abs().max())


@drawn(15, batch=BATCHES, half=st.integers(1, 3), height=SIDES, width=SIDES, sizes=st.tuples(SIDES, SIDES), seed=SEEDS,
       backend=st.sampled_from(['direct', 'fft', 'gemm', 'auto']), recorded=st.booleans())
def test_parc_along_both_axes(batch, half, height, width, sizes, seed, backend, recorded):
    layer = randomise(ParCHW(2 * half, sizes, backend=backend), seed).eval()
    x = map_of(batch, 2 * half, height, width)
    with torch.set_grad_enabled(recorded):
        out = layer(x)
    parts = [parc(part, line.weight, line.bias, line.pos_embed, line.axis)
             for part, line in zip(x.chunk(2, 1), (layer.h, layer.w))]
    torch.testing.assert_close(out, torch.cat(parts, 1), rtol=1e-9, atol=1e-9, check_stride=False)


# ---- H-MHSA ----


@drawn(40, batch=BATCHES, height=st.integers(1, 20), width=st.integers(1, 20), head_dim=st.sampled_from([1, 2, 4]),
       grid_size=st.integers(1, 9), pool_ratio=st.integers(1, 9), normed=st.booleans(), seed=SEEDS, memory_format=FORMATS)
def test_two_step_h_mhsa(batch, height, width, head_dim, grid_size, pool_ratio, normed, seed, memory_format):
    norm = {'norm_layer': lambda channels: nn.GroupNorm(1, channels)} if normed else {'norm_layer': nn.Identity}
    layer = randomise(HMHSA(4, head_dim, grid_size, pool_ratio, **norm), seed)
    assert_equal(layer, lambda x: h_mhsa.two_step(layer, x), map_of(batch, 4, height, width, memory_format=memory_format))


@drawn(25, batch=BATCHES, height=st.integers(1, 16), width=st.integers(1, 16), head_dim=st.sampled_from([1, 2, 4]),
       grid_sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3), share_qkv=st.booleans(), seed=SEEDS)
def test_iterative_h_mhsa(batch, height, width, head_dim, grid_sizes, share_qkv, seed):
    layer = randomise(IterativeHMHSA(4, head_dim, grid_sizes, share_qkv=share_qkv,
                                     norm_layer=lambda channels: nn.GroupNorm(1, channels)), seed)
    assert_equal(layer, lambda x: h_mhsa.iterative(layer, x), map_of(batch, 4, height, width))


# ---- self-optimal transport ----

TRANSPORT = dict(similarity=st.sampled_from(['gaussian', 'dot']), sigma=st.sampled_from([0.5, 1.]),
                 eps=st.sampled_from([0.01, 0.03, 0.1, 1.]), iterations=st.integers(1, 12), tau=st.sampled_from([0.3, 1.]))


@drawn(40, batch=BATCHES, tokens=st.integers(1, 30), references=st.integers(1, 12), settings=st.fixed_dictionaries(TRANSPORT),
       prior=st.sampled_from(['1d', None]), nystrom=st.booleans(), recompute=st.booleans(), mask=st.booleans(), seed=SEEDS,
       backend=st.sampled_from(['auto', 'plain']))
def test_self_optimal_transport(batch, tokens, references, settings, prior, nystrom, recompute, mask, seed, backend):
    layer = randomise(SelfOptimalTransport(4, references, 2, prior=prior, nystrom=nystrom, recompute=recompute, backend=backend,
                                           **settings), seed)
    real = torch.rand(batch, tokens) < 0.6 if mask else None
    assert_equal(layer, lambda x: optimal_transport.self_optimal_transport(layer, x, real, None, prior=prior, **settings),
                 map_of(batch, tokens, 4), 1e-7, lambda x: layer(x, real))


@drawn(30, batch=BATCHES, height=SIDES, width=SIDES, side=st.integers(1, 4), settings=st.fixed_dictionaries(TRANSPORT),
       prior=st.sampled_from(['2d', '1d', None]), seed=SEEDS, memory_format=FORMATS)
def test_self_optimal_transport_on_maps(batch, height, width, side, settings, prior, seed, memory_format):
    layer = randomise(SelfOptimalTransport2d(4, side**2, 2, prior=prior, **settings), seed)

    def definition(x):
        tokens = optimal_transport.self_optimal_transport(
            layer, x.flatten(2).transpose(1, 2), None, (height, width), prior=prior, **settings)
        return tokens.transpose(1, 2).reshape(x.shape)

    assert_equal(layer, definition, map_of(batch, 4, height, width, memory_format=memory_format), 1e-7)


# ---- the global-local module ----

GROUPS = dict(groups=st.sampled_from([(3, 0), (2, 1), (1, 2), (0, 3)]), kernel_size=st.sampled_from([1, 3, 9, 31]),
              expansion=st.sampled_from([1, 2]), qk_ratio=st.sampled_from([1, 2]), training=st.booleans(), seed=SEEDS)


def global_local_of(groups, kernel_size, expansion, qk_ratio, window_size, attend_globally, training, seed):
    layer = GlobalLocal(6, 3, *groups, kernel_size, expansion, qk_ratio, window_size, attend_globally)
    return randomise(layer, seed).train(training)


@drawn(20, batch=BATCHES, length=st.integers(2, 40), **GROUPS)
def test_global_local_on_tokens(batch, length, training, **settings):
    layer = global_local_of(window_size=4, attend_globally=False, training=training, **settings)
    assert_equal(layer, lambda x: global_local.on_tokens(layer, x), map_of(batch, length, 6))


@drawn(25, batch=BATCHES, height=st.integers(1, 9), width=st.integers(2, 9), window_size=st.integers(1, 6),
       attend_globally=st.booleans(), memory_format=FORMATS, **GROUPS)
def test_global_local_on_maps(batch, height, width, window_size, attend_globally, memory_format, **settings):
    layer = global_local_of(window_size=window_size, attend_globally=attend_globally, **settings)
    x = map_of(batch, 6, height, width, memory_format=memory_format)
    assert_equal(layer, lambda x: global_local.on_map(layer, x, window_size, attend_globally), x)


# ---- attention calls, embeddings, sizes ----


@drawn(40, batch=st.integers(0, 9), heads=st.integers(1, 4), queries=st.integers(1, 5), keys=st.integers(1, 5),
       limit=st.integers(1, 12), masked=st.booleans(), seed=SEEDS)
def test_attention_in_several_calls(batch, heads, queries, keys, limit, masked, seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(batch, heads, n, 3, dtype=torch.float64) for n in (queries, keys, keys))
    mask = torch.rand(batch, 1, 1, keys) < 0.5 if masked else None
    if mask is not None:
        mask[..., 0] = True
    calls, call, whole = [], F.scaled_dot_product_attention, attention.LIMIT
    F.scaled_dot_product_attention = lambda q, *args, **kwargs: calls.append(q.shape[0] * q.shape[1]) or call(q, *args, **kwargs)
    try:
        attention.LIMIT = limit
        out = attention.attend(q, k, v, mask)
    finally:
        F.scaled_dot_product_attention, attention.LIMIT = call, whole
    weights = q @ k.transpose(-1, -2) / 3**0.5
    expected = (weights if mask is None else weights.masked_fill(~mask, -torch.inf)).softmax(-1) @ v
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    assert all(size <= max(limit, heads) for size in calls) and sum(calls) == batch * heads


def linear(m, n):
    """The matrix (n, m) that resizes m values to n: straight lines between them, ends on ends."""
    matrix = torch.zeros(n, m, dtype=torch.float64)
    for i in range(n):
        place = i * (m - 1) / (n - 1) if n > 1 else 0.
        first = min(int(place), m - 1)
        matrix[i, first] += 1 - (place - first)
        matrix[i, min(first + 1, m - 1)] += place - first
    return matrix


def cubic(m, n):
    """The matrix (n, m) that resizes m values to n: cubic convolution with a = -0.75, pixels as areas, ends repeated."""
    matrix, a = torch.zeros(n, m, dtype=torch.float64), -0.75
    for i in range(n):
        place = (i + 0.5) * m / n - 0.5
        first = int(place // 1)
        for j in range(first - 1, first + 3):
            t = abs(place - j)
            weight = (a + 2) * t**3 - (a + 3) * t**2 + 1 if t <= 1 else a * (t**3 - 5 * t**2 + 8 * t - 4)
            matrix[i, min(max(j, 0), m - 1)] += weight
    return matrix


@drawn(40, stored=st.integers(1, 30), n=st.integers(1, 60), axis=st.sampled_from('HW'), channels=st.integers(1, 4), seed=SEEDS)
def test_kernels_and_embeddings_of_parc_at_another_size(stored, n, axis, channels, seed):
    torch.manual_seed(seed)
    line = torch.randn(1, channels, stored, dtype=torch.float64)
    resized = resize(line[..., None] if axis == 'H' else line[..., None, :], axis, n)
    expected = line @ (linear(stored, n).T if stored != n else torch.eye(n, dtype=torch.float64))
    torch.testing.assert_close(resized, expected[..., None] if axis == 'H' else expected[..., None, :], rtol=1e-9, atol=1e-12)


@drawn(25, height=st.integers(1, 200), width=st.integers(1, 200), class_token=st.booleans(), seed=SEEDS)
def test_position_embedding_of_glit_at_any_size(height, width, class_token, seed):
    layer = randomise(PatchEmbedding(1, 2, class_token), seed)
    rows, columns = -(-height // 16), -(-width // 16)
    grid = layer.pos_embed[0, class_token:].unflatten(0, (14, 14))
    embed = torch.einsum('hi,wj,ijc->hwc', cubic(14, rows), cubic(14, columns), grid)
    x = torch.randn(2, 1, height, width, dtype=torch.float64)
    patches = torch.zeros(2, 1, 16 * rows, 16 * columns, dtype=torch.float64)
    patches[:, :, :height, :width] = x
    patches = patches.unflatten(3, (columns, 16)).unflatten(2, (rows, 16)).permute(0, 2, 4, 1, 3, 5)
    expected = patches.flatten(3) @ layer.proj.weight.flatten(1).T + layer.proj.bias + embed
    out = layer(x)
    if class_token:
        torch.testing.assert_close(out[:, 0], (layer.cls_token + layer.pos_embed[:, :1])[:, 0].expand(2, 2))
        out = out[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))
    torch.testing.assert_close(out.permute(0, 2, 3, 1), expected, rtol=1e-8, atol=1e-9, check_stride=False)


@drawn(30, sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4), seed=SEEDS, iteration=st.integers(0, 10**6),
       batch=BATCHES, side=st.integers(1, 40), value=st.integers(0, 255))
def test_variable_sizes(sizes, seed, iteration, batch, side, value):
    hook, runner = VariableSizeHook(sizes), SimpleNamespace(seed=seed, iter=iteration)
    images, other = torch.full((batch, 3, side, side), value, dtype=torch.uint8), torch.rand(1, 3, 5, 7)
    batches = [dict(inputs=images), dict(inputs=other)]
    for data in batches:
        hook.before_train_iter(runner, 0, data)
    size = batches[1]['inputs'].shape[-1]
    assert size in sizes and all(data['inputs'].shape[2:] == (size, size) for data in batches)  # whatever the batch holds
    resized = batches[0]['inputs']
    assert resized.shape[:2] == images.shape[:2] and (resized.float().cpu() - value).abs().max() < 1e-3
    assert resized is images or size != side
