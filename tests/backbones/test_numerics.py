"""No backbone, as its training starts, makes a number that is not finite of zeros, constants and large values."""
import copy
import logging
from contextlib import nullcontext

import pytest
import torch
from backbones.features import BACKBONES, SHORT
from mmengine.registry import MODELS

from hybrid_mm.layers import LayerNorm2d, SelfOptimalTransport

OURS = [name for name in BACKBONES if not name.startswith('WithParC')]  # whose norms are the host's
SIZE = 48  # at 32 the last maps have one position each, and equal pictures no variance at all
PICTURES = {
    'zeros': torch.zeros(2, 3, SIZE, SIZE),
    'one of zeros': torch.stack([torch.zeros(3, SIZE, SIZE), torch.randn(3, SIZE, SIZE, generator=torch.manual_seed(2))]),
    'ones': torch.ones(2, 3, SIZE, SIZE),
    '1e4': torch.full((2, 3, SIZE, SIZE), 1e4),
    '-1e4': torch.full((2, 3, SIZE, SIZE), -1e4),
}
# float16 holds no more than 6.5e4: the scale of the loss has to fit, as torch's GradScaler finds it in training
KINDS = {'float32': 1, 'bfloat16': 1, 'float16': 1 / 64, 'float64': 1}


def build(name):
    return start(**{**BACKBONES[name], **(SHORT[name] if name == 'ParCResNet' else {})})  # the only one with wide maps


def start(**cfg):
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg))
    model.init_weights()
    return model


def pass_through(model, image, kind):
    """Outputs, and the gradients of image and parameters, by name; the gradient of each output is noise, as a head's is."""
    half = kind in ('bfloat16', 'float16')
    image = image.clone().requires_grad_()
    with torch.autocast('cpu', getattr(torch, kind)) if half else nullcontext():
        outputs = model(image)
    noise = torch.manual_seed(1)
    loss = sum((out * torch.randn(out.shape, generator=noise)).float().mean() for out in outputs)
    (loss * KINDS[kind]).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**{f'output {i}': out for i, out in enumerate(outputs)}, 'image': image.grad, **gradients}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', OURS)
def test_outputs_and_gradients_are_finite(name, kind):
    model = build(name)
    if kind == 'float64':
        model.double()
    weights = copy.deepcopy(model.state_dict())
    for picture, image in PICTURES.items():
        for training in (True, False) if picture in ('zeros', '1e4') else (True, ):
            model.load_state_dict(weights)
            model.zero_grad()
            found = pass_through(model.train(training), image.double() if kind == 'float64' else image, kind)
            bad = [key for key, value in found.items() if not value.isfinite().all()]
            assert not bad, (picture, training, bad)


def test_the_published_convnext_is_finite_in_half_precision_on_a_picture_of_zeros():
    """Its five norms, one behind the other, took the gradient beyond what float16 holds."""
    model = start(type='hybrid_mm.ParCConvNeXt', arch='xtiny').train()
    found = pass_through(model, torch.zeros(1, 3, 32, 32), 'float16')
    assert all(value.isfinite().all() for value in found.values())


@pytest.mark.parametrize('name', ['ParCConvNeXt', 'SeTformer'])
def test_padding_by_zeros_leaves_gradients_their_size(name):
    """Without care, 1e9 at the start of a SeTformer's training."""
    model = build(name).train()
    image = torch.randn(2, 3, 96, 192, generator=torch.manual_seed(0))
    image[..., 40:] = 0
    gradients = pass_through(model, image, 'float32')
    assert max(value.abs().max() for value in gradients.values()) < 1e3


def test_a_picture_of_zeros_among_others_takes_no_gradient_from_them():
    model = build('HATNet').train()
    alone = pass_through(model, PICTURES['one of zeros'][1:], 'float32')
    model.zero_grad()
    together = pass_through(model, PICTURES['one of zeros'].flip(0), 'float32')
    for key, value in alone.items():
        if key.startswith('output'):
            torch.testing.assert_close(together[key][:1], value, msg=key)
    assert not together['image'][1].any() and together['image'][0].any()


def test_layer_norm_is_torchs_but_for_positions_that_are_constant():
    norm = LayerNorm2d(6).double()
    torch.nn.init.normal_(norm.weight)
    image = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    image[0, :, 1] = 0
    image.requires_grad_()

    def plain(image):
        return torch.nn.functional.layer_norm(image.movedim(1, 3), (6, ), norm.weight, norm.bias, norm.eps).movedim(3, 1)

    wanted = torch.randn(2, 6, 3, 4, dtype=torch.float64)
    inputs = (image, norm.weight, norm.bias)
    gradient, *of_parameters = torch.autograd.grad((norm(image) * wanted).sum(), inputs)
    expected, *expected_of_parameters = torch.autograd.grad((plain(image) * wanted).sum(), inputs)

    assert torch.equal(norm(image), plain(image))
    assert not gradient[0, :, 1].any() and expected[0, :, 1].abs().max() > 100
    gradient[0, :, 1] = expected[0, :, 1]
    for found, right in zip((gradient, *of_parameters), (expected, *expected_of_parameters)):
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradgradcheck(norm, torch.randn(1, 6, 2, 2, dtype=torch.float64, requires_grad=True))


def test_a_token_of_zeros_passes_no_gradient_through_its_direction():
    torch.manual_seed(0)
    transport = SelfOptimalTransport(8, 4, head_dim=4, prior=None)
    torch.nn.init.zeros_(transport.value.bias)
    tokens = torch.randn(1, 6, 8)
    tokens[0, 2] = 0
    tokens.requires_grad_()
    transport(tokens).square().sum().backward()
    assert tokens.grad.isfinite().all() and tokens.grad.abs().max() < 1e3
