"""Self-optimal transport on a GPU: Triton's kernels and the module against the plain path in float64 on the CPU.

On a CPU (HYBRID_MM_TEST_DEVICE=cpu) the kernels run with TRITON_INTERPRET=1, on 40 tokens at most, and are left out without it.
"""
import copy
import os
import warnings

import pytest
import torch
from layers.attention_cases import TOLERANCES, assert_precise, outputs_and_gradients
from layers.transport_cases import inputs_of, run

from hybrid_mm.layers import SelfOptimalTransport2d
from hybrid_mm.layers.transport import choice, plain

# kind, eps, prior, padding, iterations, (B, h, n), m, d, k
CASES = {
    'mini, stage 1': ('gaussian', 0.03, '2d', False, 10, (2, 2, 3136), 49, 32, 32),
    'detector': ('gaussian', 0.03, '2d', False, 10, (1, 2, 64000), 49, 32, 32),
    'padding': ('gaussian', 0.1, '1d', True, 5, (3, 2, 1000), 49, 32, 32),
    'padding without prior': ('dot', 0.1, None, True, 5, (3, 2, 1000), 49, 32, 32),
    'no prior': ('gaussian', 0.1, None, False, 5, (2, 3, 777), 49, 32, 32),
    'dot': ('dot', 0.1, '2d', False, 5, (2, 2, 777), 49, 32, 32),
    'sharp': ('gaussian', 0.01, '1d', False, 10, (2, 2, 777), 49, 32, 32),
    '196 references': ('gaussian', 0.03, '2d', False, 5, (2, 2, 3136), 196, 32, 32),
    '256 references': ('gaussian', 0.1, '1d', False, 5, (1, 1, 500), 256, 32, 32),
    'wide heads': ('gaussian', 0.1, '1d', False, 5, (1, 2, 500), 49, 64, 64),
    'unlike widths': ('dot', 0.1, '1d', True, 5, (2, 2, 500), 4, 20, 24),
    'fewer tokens than references': ('gaussian', 0.1, '2d', False, 5, (2, 2, 30), 49, 32, 32),
    'one token': ('gaussian', 0.1, None, False, 1, (1, 1, 1), 4, 16, 16),
    'many pairs': ('gaussian', 0.1, '2d', False, 3, (4096, 16, 49), 49, 32, 32),  # 65536 sequences and heads
}


@pytest.fixture
def kernels(device):
    pytest.importorskip('triton')
    if device.type == 'cpu' and not os.environ.get('TRITON_INTERPRET'):
        pytest.skip('kernels run on a GPU, or in the interpreter with TRITON_INTERPRET=1')
    from hybrid_mm.layers.transport import fused
    return fused.transport


def fit(case, device):
    """The case, small where Triton's interpreter runs it."""
    *settings, (B, h, n), m, d, k = case
    return (*settings, (min(B, 2), min(h, 2), min(n, 40)) if device.type == 'cpu' else (B, h, n), m, d, k)


@pytest.mark.parametrize('case', CASES)
def test_kernels_equal_the_plain_path_in_float64(device, kernels, case):
    case = fit(CASES[case], device)
    tensors = inputs_of(case)
    ours = run(kernels, tensors, case, torch.float32, device)
    theirs = run(plain.transport, tensors, case, torch.float64, device)
    for name, a, b in zip(('output', 'values', 'keys', 'references'), ours, theirs):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max().clamp(min=1e-6), name


def test_a_run_repeats_bit_by_bit(device, kernels):
    case = fit(CASES['mini, stage 1'], device)
    first, second = (run(kernels, inputs_of(case), case, torch.float32, device) for _ in range(2))
    assert all(map(torch.equal, first, second))


def layer_and_map(device, dtype, side=14):
    torch.manual_seed(0)
    layer = SelfOptimalTransport2d(64).to(device, dtype)
    return layer, torch.randn(2, 64, side, side, device=device, dtype=dtype)


def test_module_takes_the_kernels_without_a_warning(device):
    if device.type != 'cuda':
        pytest.skip('kernels are chosen on CUDA alone')
    pytest.importorskip('triton')
    from hybrid_mm.layers.transport import fused
    choice._agrees_with_plain.cache_clear()
    layer, x = layer_and_map(device, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        layer(x).sum().backward()
    values = torch.randn(2, 2, 196, 32, device=device)
    assert choice.choose(values, layer.references, layer.similarity) is fused.transport


@pytest.mark.parametrize('form', TOLERANCES)
@pytest.mark.parametrize('backend', ['auto', 'plain'])
def test_module_agrees_with_float64(device, backend, form):
    """A half layer and autocast have their plan in float32: what differs comes from the projections."""
    dtype = getattr(torch, form.split()[-1])
    layer, x = layer_and_map(device, torch.float32 if 'autocast' in form else dtype)
    layer.backend = backend
    exact = copy.deepcopy(layer).cpu().double()
    exact.backend = 'plain'
    expected = outputs_and_gradients(exact, x.cpu().double())
    ours = outputs_and_gradients(layer, x, torch.autocast(device.type, dtype, enabled='autocast' in form))
    assert_precise(ours, expected, form)


def test_kernels_store_no_array_of_tokens_and_references(device, kernels):
    if device.type != 'cuda':
        pytest.skip('memory is that of a GPU')
    case = 'gaussian', 0.03, '1d', False, 10, (1, 1, 65536), 196, 32, 32
    tensors = [tensor.to(device, torch.float32) for tensor in inputs_of(case)]
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run(kernels, tensors, case, torch.float32, device)
    # a dozen arrays of tokens, and parts that are no larger
    assert torch.cuda.max_memory_allocated(device) - before < 4 * 65536 * 32 * 24 < 4 * 65536 * 196 * 4
