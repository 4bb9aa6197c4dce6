"""The layers but ParC on a GPU: each precision against float64 on the CPU, more windows than one call takes, empty batches."""
import copy

import pytest
import torch
from layers.attention_cases import LAYERS, TOLERANCES, WINDOWS, assert_precise, build, error, outputs_and_gradients

MANY = {  # over 65535 windows and heads, or pictures and heads where attention reaches all of a picture
    'h_mhsa': (1, 2, 512, 512),
    'global': (65536, 2, 1, 1),
    'iterative': (1, 2, 511, 511),  # windows at the edge are cut: with a mask
    'global_local': (1, 3, 512, 512),
    'global_local_global': (65536, 3, 1, 1),
    'mobile_vit': (16384, 2, 2, 2),
}


@pytest.fixture(autouse=True)
def own_float32():
    """Convolutions in float32 itself, not in TF32."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.mark.parametrize('form', TOLERANCES)
@pytest.mark.parametrize('name', LAYERS)
def test_every_precision_agrees_with_float64(device, name, form):
    if name == 'transport_in_blocks' and device.type == 'cuda':
        pytest.skip('blocks are for a CPU')
    dtype = getattr(torch, form.split()[-1])
    channels, layer = build(name, dtype=torch.float32 if 'autocast' in form else dtype)
    layer.eval()  # DropPath draws by the device
    x = torch.randn(2, channels, 9, 10).to(next(layer.parameters()))
    expected = outputs_and_gradients(copy.deepcopy(layer).double(), x.double())
    layer.to(device)
    ours = outputs_and_gradients(layer, x.to(device), torch.autocast(device.type, dtype, enabled='autocast' in form))
    assert_precise(ours, expected, form)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', WINDOWS)
def test_many_windows_agree_with_float64(device, name, dtype):
    _, layer = build(name, dtype=dtype)
    x = torch.randn(MANY[name], dtype=dtype)
    expected = copy.deepcopy(layer).double()(x.double())
    x = x.to(device).requires_grad_()
    out = layer.to(device)(x)
    out.float().square().mean().backward()
    tolerance = TOLERANCES[str(dtype).split('.')[-1]]
    assert error([out], [expected]) <= tolerance
    assert x.grad.isfinite().all() and all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('name', LAYERS)
def test_an_empty_batch_goes_forward_and_backward(device, name, dtype):
    channels, layer = build(name, torch.nn.BatchNorm2d, dtype)
    x = torch.randn(0, channels, 5, 6, device=device, dtype=dtype, requires_grad=True)
    out = layer.to(device)(x)
    out.sum().backward()
    assert out.shape[0] == 0 and x.grad.shape == x.shape
