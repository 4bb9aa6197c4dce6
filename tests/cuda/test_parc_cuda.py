"""ParC on a GPU: every backend against the definition in float64, and kept kernels after steps of fused optimizers."""
import pytest
import torch
from layers.parc_cases import layer_of
from reference.parc import parc

from hybrid_mm.layers import ParCHW

BACKENDS = ['direct', 'fft', 'gemm', 'auto']
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 8e-2}
FORMATS = [torch.contiguous_format, torch.channels_last]


def assert_near(ours, expected, dtype):
    for value, reference in zip(ours, expected):
        assert value.shape == reference.shape
        assert (value.cpu().double() - reference).norm() <= TOLERANCE[dtype] * reference.norm()


def definition(layer, x):
    """Output and gradients of a `ParCHW` in float64 on a CPU, from the values that it has."""
    x = x.detach().cpu().double().requires_grad_()
    parameters = [p.detach().cpu().double().requires_grad_() for p in layer.parameters()]
    half = len(parameters) // 2
    (weight_h, bias_h, embed_h), (weight_w, bias_w, embed_w) = parameters[:half], parameters[half:]
    x1, x2 = x.chunk(2, 1)
    y = torch.cat([parc(x1, weight_h, bias_h, embed_h, 'H'), parc(x2, weight_w, bias_w, embed_w, 'W')], 1)
    return [y, *torch.autograd.grad(y, [x, *parameters], cotangent_of(y))]


def cotangent_of(y):
    return torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape)


@pytest.fixture(params=FORMATS, ids=['NCHW', 'NHWC'])
def image(request, device):
    torch.manual_seed(0)
    long = 24 if device.type == 'cpu' else 66  # a CPU takes minutes for a long bfloat16 convolution
    return torch.randn(3, 8, 14, long).to(device, memory_format=request.param)


def make(backend, depthwise, device, dtype):
    torch.manual_seed(0)
    layer = ParCHW(8, (14, 20), depthwise=depthwise, backend=backend)  # at the base size along H, resized along W
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer.to(device, dtype)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('depthwise', [True, False])
@pytest.mark.parametrize('dtype', DTYPES)
def test_output_and_gradients_are_those_of_the_definition(backend, depthwise, dtype, device, image):
    layer = make(backend, depthwise, device, dtype)
    x = image.to(dtype).requires_grad_()
    y = layer(x)
    ours = [y, *torch.autograd.grad(y, [x, *layer.parameters()], cotangent_of(y).to(device, dtype))]

    assert y.dtype == dtype and y.device == x.device
    assert_near(ours, definition(layer, x), dtype)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_autocast(backend, dtype, device, image):
    layer = make(backend, True, device, torch.float32)
    with torch.autocast(device.type, dtype):
        y = layer(image)
    y.backward(cotangent_of(y).to(device, dtype))
    expected = definition(layer, image)

    assert y.dtype == dtype and all(p.grad.dtype == torch.float32 for p in layer.parameters())
    assert_near([y, *(p.grad for p in layer.parameters())], [expected[0], *expected[2:]], dtype)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('dtype', DTYPES)
def test_evaluation_with_kept_kernels(backend, dtype, device, image):
    layer, x = make(backend, True, device, dtype).eval(), image.to(dtype)
    expected = definition(layer, x)[:1]
    for _ in range(2):
        with torch.inference_mode():
            assert_near([layer(x)], expected, dtype)
    assert layer.h._kept.entries and layer.w._kept.entries


@pytest.mark.parametrize('backend', ['fft', 'gemm'])
@pytest.mark.parametrize('depthwise', [True, False])
def test_maps_larger_than_a_part(backend, depthwise, device, image, monkeypatch):
    monkeypatch.setattr('hybrid_mm.layers.parc.lines._PART_VALUES', {device.type: 1000})
    layer = make(backend, depthwise, device, torch.float32)
    x = image.requires_grad_()
    y = layer(x)
    ours = [y, *torch.autograd.grad(y, [x, *layer.parameters()], cotangent_of(y).to(device, torch.float32))]
    assert_near(ours, definition(layer, x), torch.float32)


@pytest.mark.parametrize('backend', BACKENDS)
def test_empty_batch(backend, device):
    layer = ParCHW(4, 6, backend=backend).to(device)
    x = torch.zeros(0, 4, 60, 7, device=device, requires_grad=True)
    layer(x).sum().backward()
    assert not any(p.grad.any() for p in layer.parameters())
    with torch.no_grad():
        assert layer.eval()(x).shape == x.shape


@pytest.mark.parametrize('backend', ['direct', 'fft', 'gemm'])
@pytest.mark.parametrize('optimizer', [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize('evaluates', ['before', 'between forward and backward', 'between backward and step'])
def test_kept_kernels_after_fused_steps(backend, optimizer, evaluates, device):
    layer = layer_of(base_size=4, backend=backend).to(device).eval()
    x = torch.randn(2, 2, 6, 3, dtype=torch.float64, device=device)

    def evaluate():
        with torch.no_grad():
            return layer(x)

    stepper = optimizer(layer.parameters(), 0.5, fused=True)
    for _ in range(3):
        before = evaluate()
        loss = layer(x).square().mean()
        before = evaluate() if evaluates == 'between forward and backward' else before
        loss.backward()
        before = evaluate() if evaluates == 'between backward and step' else before
        stepper.step()
        stepper.zero_grad()
        weight, bias, pos_embed = (p.detach().cpu() for p in (layer.weight, layer.bias, layer.pos_embed))
        assert_near([evaluate()], [parc(x.cpu(), weight, bias, pos_embed, 'H')], torch.float64)
        assert not torch.equal(evaluate(), before)
        layer.eval()


@pytest.mark.parametrize('backend', ['direct', 'fft', 'gemm'])
def test_kept_kernels_after_a_gradient_from_elsewhere(backend, device):
    layer = layer_of(base_size=4, backend=backend).to(device).eval()
    x = torch.randn(2, 2, 6, 3, dtype=torch.float64, device=device)
    with torch.no_grad():
        before = layer(x)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.AdamW(layer.parameters(), 0.5, fused=True).step()
    with torch.no_grad():
        after = layer(x)
    weight, bias, pos_embed = (p.detach().cpu() for p in (layer.weight, layer.bias, layer.pos_embed))
    assert_near([after], [parc(x.cpu(), weight, bias, pos_embed, 'H')], torch.float64)
    assert not torch.equal(after, before)
