"""What the tests of self-optimal transport share: layers, tokens, and the comparison with the definition."""
import torch
from reference import optimal_transport as definition
from torch.nn.functional import normalize

from hybrid_mm.layers import SelfOptimalTransport
from hybrid_mm.layers.transport.choice import choose
from hybrid_mm.layers.transport.definition import Similarity, position_prior_1d, position_prior_2d
from hybrid_mm.layers.transport.plain import pool

PRECISE = 1e-9
MATRIX, LOG = 0.1, 0.01  # eps: exp(similarity / eps) within the range of float32, and beyond it
SETTINGS = dict(similarity='gaussian', sigma=0.5, eps=MATRIX, iterations=5, prior=None, tau=0.5)
WAYS = dict(default={}, plain=dict(backend='plain'), kept=dict(backend='plain', recompute=False))
CASES = [dict(similarity=similarity, eps=eps, prior=prior)
         for similarity in ('gaussian', 'dot') for eps in (MATRIX, LOG) for prior in ('2d', '1d', None)]


def make(channels=16, num_references=9, head_dim=8, seed=0, kind=SelfOptimalTransport, dtype=torch.float64, **kwargs):
    """A layer with values of the order of 1 everywhere, and all settings of the transport."""
    torch.manual_seed(seed)
    settings = {**SETTINGS, **kwargs}
    layer = kind(channels, num_references, head_dim, **settings).to(dtype)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return layer, {key: settings[key] for key in SETTINGS}


def tokens_of(n, channels=16, batch=2, dtype=torch.float64):
    return torch.randn(batch, n, channels, dtype=dtype, requires_grad=True)


def unit_vectors(*shape, seed=0):
    torch.manual_seed(seed)
    return normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def results(function, x, parameters):
    """Output, and gradients of input and parameters for a fixed cotangent."""
    out = function(x)
    cotangent = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out, *torch.autograd.grad(out, [x, *parameters], cotangent)]


def assert_close(ours, expected, tolerance=PRECISE):
    for value, reference in zip(ours, expected, strict=True):
        assert value.shape == reference.shape
        assert (value - reference).abs().max() <= tolerance * max(reference.abs().max().item(), 1)


def assert_equals_the_definition(layer, settings, x, mask=None, size=None):
    parameters = list(layer.parameters())
    assert_close(
        results(lambda x: layer(x, mask, size), x, parameters),
        results(lambda x: definition.self_optimal_transport(layer, x, mask, size, **settings), x, parameters))


def transport(values, keys, references, similarity, iterations, prior=None, mask=None):
    """By the way that a module would take."""
    way = choose(values, references, similarity, prior, mask)
    return way(values, keys, references, similarity, iterations, prior, mask)


def recovered_plan(keys, references, similarity, iterations):
    """T from what the references collect of one-hot values, m T^T: the plan that the values travel along."""
    one_hot = torch.eye(keys.shape[-2], dtype=keys.dtype).expand(*keys.shape[:-1], -1)
    return pool(one_hot, keys, references, similarity, iterations)[0].transpose(-1, -2) / references.shape[-2]


# ---- the kernels: cases are kind, eps, prior, padding, iterations, (B, h, n), m, d, k ----


def inputs_of(case):
    """Values, keys, references and a cotangent of the output, in float64."""
    *_, (B, h, n), m, d, k = case
    options = dict(generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # tokens in front of heads in memory, as the linear layer writes them
    return [torch.randn(B, n, h, d, **options).transpose(1, 2), torch.randn(B, h, n, k, **options),
            torch.randn(h, m, k, **options), torch.randn(B, h, n, d, **options)]


def run(way, tensors, case, dtype, device='cpu'):
    """Output, and gradients of values, keys and references."""
    kind, eps, prior, padding, iterations, (B, _, n), m, *_ = case
    *tensors, weight = [tensor.to(device, dtype).requires_grad_() for tensor in tensors]
    values, keys, references = tensors
    mask = None
    if padding:  # of the first sequence the end, of the second all, of others nothing
        mask = torch.arange(n, device=device) < torch.tensor([n * 2 // 3, 0, n], device=device)[:B, None]
    if prior == '1d':
        prior = position_prior_1d(n, m, 0.5, values, mask)
    elif prior == '2d':
        height = max(i for i in range(1, int(n**0.5) + 1) if n % i == 0)
        prior = position_prior_2d((height, n // height), m, 0.5, values)
    out = way(values, normalize(keys, dim=-1), normalize(references, dim=-1), Similarity(kind, 0.5, eps), iterations, prior, mask)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), tensors)]
