"""Attention in as many calls as CUDA's kernels need, whatever the layer; and what every layer makes of an empty batch."""
import pytest
import torch
import torch.nn.functional as F
from layers.attention_cases import LAYERS, WINDOWS, build, outputs_and_gradients
from torch import nn

CUDA_TAKES = 65535  # batch times heads


@pytest.fixture
def calls(monkeypatch):
    """Batch times heads of every call of torch's attention, which is that of the layers, too."""
    sizes, attention = [], F.scaled_dot_product_attention

    def noted(q, k, v, *args, **kwargs):
        sizes.append(q.shape[0] * q.shape[1])
        return attention(q, k, v, *args, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', noted)
    return sizes


@pytest.fixture
def lower(monkeypatch):
    """Lower the limit, so that few windows are more than one call takes."""
    from hybrid_mm.layers import attention

    def to(limit):
        monkeypatch.setattr(attention, 'LIMIT', limit)

    return to


def assert_close(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# ---- many windows ----


@pytest.mark.parametrize('name, shape', [
    ('h_mhsa', (1, 2, 512, 512)),  # 65536 windows of two heads
    ('h_mhsa', (1, 2, 511, 511)),
    ('iterative', (1, 2, 512, 512)),
    ('global_local', (1, 3, 512, 512)),
    ('global_local_global', (65536, 3, 1, 1)),
    ('mobile_vit', (16384, 2, 2, 2)),  # four sets a picture
    ('global', (65536, 2, 1, 1)),
], ids=str)
def test_no_call_is_larger_than_cuda_takes(calls, name, shape):
    _, layer = build(name, dtype=torch.float32)
    with torch.no_grad():
        assert layer.eval()(torch.randn(shape)).shape == shape
    assert max(calls) <= CUDA_TAKES < sum(calls)


@pytest.mark.parametrize('limit', [1, 5, 8])
@pytest.mark.parametrize('name', WINDOWS)
def test_several_calls_give_what_one_gives(calls, lower, name, limit):
    channels, layer = build(name)
    x = torch.randn(3, channels, 5, 6, dtype=torch.float64)  # windows at the edge are cut, so there is a mask
    whole = outputs_and_gradients(layer, x)
    number, largest = len(calls), max(calls)
    lower(limit)
    assert_close(outputs_and_gradients(layer, x), whole)
    several = calls[number:]
    assert max(several) <= max(limit, 2) and sum(several) == sum(calls[:number])  # two heads are one call at least
    assert (len(several) > number) == (largest > limit)


def test_several_calls_compile_into_one_graph(lower):
    lower(4)
    _, layer = build('h_mhsa')
    x = torch.randn(3, 2, 5, 6, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend='eager', dynamic=False)
    with torch.no_grad():
        assert_close([compiled(x)], [layer(x)])


def test_a_graph_for_all_sizes_has_one_call_and_no_condition_on_the_windows(lower):
    lower(4)
    _, layer = build('h_mhsa')
    x = torch.randn(2, 2, 11, 13, dtype=torch.float64)
    dynamic = torch.export.Dim.AUTO
    exported = torch.export.export(layer.eval(), (x, ), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic}, )).module()
    calls = [node for node in exported.graph.nodes if 'scaled_dot_product_attention' in str(node.target)]
    assert len(calls) == 2  # in the grids, and to the pooled map
    larger = torch.randn(3, 2, 15, 9, dtype=torch.float64)
    assert_close([exported(larger)], [layer(larger)])


def test_attention_is_called_in_one_place(root):
    callers = [path.relative_to(root).as_posix() for path in (root / 'hybrid_mm').rglob('*.py')
               if '.scaled_dot_product_attention(' in path.read_text()]
    assert callers == ['hybrid_mm/layers/attention.py']


# ---- no pictures ----


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize('name', LAYERS)
def test_an_empty_batch_goes_forward_and_backward(name, training):
    channels, layer = build(name, nn.BatchNorm2d, torch.float32)
    state = {key: value.clone() for key, value in layer.state_dict().items()}
    size = layer(torch.randn(2, channels, 5, 6)).shape[1:]
    layer.load_state_dict(state)
    x = torch.randn(0, channels, 5, 6, requires_grad=True)
    out = layer.train(training)(x)
    out.sum().backward()
    assert out.shape == (0, *size) and x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())
    assert all(value.isfinite().all() for value in layer.state_dict().values())


@pytest.mark.parametrize('name', ['global_local', 'global_local_global', 'global_local_block'])
def test_no_sequences_go_forward_and_backward(name):
    channels, layer = build(name, nn.BatchNorm2d, torch.float32)
    x = torch.randn(0, 7, channels, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert out.shape == x.shape == x.grad.shape
