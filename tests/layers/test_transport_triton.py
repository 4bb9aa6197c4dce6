"""The kernels run in Triton's interpreter on the CPU, and are compiled for GPUs that are not there.

Each in a process of its own: the interpreter is chosen by the environment before triton is imported.
"""
import json
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from hybrid_mm.layers import SelfOptimalTransport, SelfOptimalTransport2d
from hybrid_mm.layers.transport import choice, plain

# kind, eps, prior, padding, iterations, (B, h, n), m, d, k; a program takes 64 tokens in blocks of 16, where m is 49
CASES = {
    'gaussian': ('gaussian', 0.1, None, False, 2, (1, 1, 70), 49, 32, 32),
    'dot_2d': ('dot', 0.1, '2d', False, 2, (1, 2, 70), 49, 32, 32),
    'sharp_1d_padding': ('gaussian', 0.01, '1d', True, 2, (2, 1, 70), 49, 32, 32),
    'sharp_dot_padding': ('dot', 0.01, None, True, 3, (2, 1, 70), 49, 16, 16),
    'fewer_tokens_than_references': ('gaussian', 0.1, '2d', False, 2, (1, 2, 30), 49, 32, 32),
    'four_references': ('dot', 0.1, '1d', True, 2, (2, 2, 70), 4, 20, 24),
    'one_iteration_one_token': ('gaussian', 0.01, None, False, 1, (1, 1, 1), 4, 16, 16),
}
INPUTS = '''
    import json, sys
    import torch
    from torch.nn.functional import normalize
    from torch.utils._python_dispatch import TorchDispatchMode
    from hybrid_mm.layers import SelfOptimalTransport
    from hybrid_mm.layers.transport import choice, definition, fused, plain

    torch.set_num_threads(1)


    def inputs(kind, eps, prior, padding, iterations, shape, m, d, k):
        (B, h, n), options = shape, dict(generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        tensors = [torch.randn(B, n, h, d, **options).transpose(1, 2), torch.randn(B, h, n, k, **options),
                   torch.randn(h, m, k, **options), torch.randn(B, h, n, d, **options)]
        mask = None
        if padding:  # of the first sequence the end, of the last all
            mask = torch.zeros(B, n, dtype=torch.bool)
            mask[0, :n * 2 // 3] = True
        if prior == '1d':
            prior = definition.position_prior_1d(n, m, 0.5, tensors[0], mask)
        elif prior == '2d':
            prior = definition.position_prior_2d((n // 5, 5), m, 0.5, tensors[0])
        return tensors, (definition.Similarity(kind, 0.5, eps), iterations, prior, mask)


    def run(function, tensors, similarity, iterations, prior, mask, dtype):
        *tensors, weight = [tensor.to(dtype).requires_grad_() for tensor in tensors]
        prior = prior and prior._replace(tokens=prior.tokens.to(dtype), references=prior.references.to(dtype))
        values, keys, references = tensors
        out = function(values, normalize(keys, dim=-1), normalize(references, dim=-1), similarity, iterations, prior, mask)
        return [out.detach(), *torch.autograd.grad((out * weight).sum(), tensors)]
'''
COMPARE = INPUTS + '''
    errors = {}
    for name, case in json.loads(sys.stdin.read()).items():
        arguments = inputs(*case)
        ours = run(fused.transport, arguments[0], *arguments[1], torch.float32)
        theirs = run(plain.transport, arguments[0], *arguments[1], torch.float64)
        errors[name] = [float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(ours, theirs)]


    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **kwargs or {})
            self.bytes = max(self.bytes, out.nbytes if isinstance(out, torch.Tensor) else 0)
            return out


    tensors, others = inputs('gaussian', 0.1, '1d', False, 2, (1, 1, 150), 40, 16, 16)
    with Largest() as largest:
        first = run(fused.transport, tensors, *others, torch.float32)
    second = run(fused.transport, tensors, *others, torch.float32)

    import warnings

    choice._kernels = lambda values, references: fused.transport


    def warned():  # of the first use of a module
        choice._agrees_with_plain.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            layer = SelfOptimalTransport(32, num_references=4, head_dim=16)
            layer(torch.randn(1, 9, 32)).sum().backward()
        return [str(w.message) for w in caught]


    agreeing, run_kernel = warned(), fused._Launcher.run

    def wrong(self, kernel, programs, **arguments):
        run_kernel(self, kernel, programs, **arguments)
        if kernel is fused.reverse:
            arguments['dx'] *= 1.01

    fused._Launcher.run = wrong
    print(json.dumps(dict(errors=errors, largest=largest.bytes, repeats=all(map(torch.equal, first, second)),
                          agreeing=agreeing, wrong=warned())))
'''
COMPILE = INPUTS + '''
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = {torch.float32: '*fp32', torch.uint8: '*u8', float: 'fp32', int: 'i32'}
    compiled = set()


    def compile_only(self, kernel, programs, num_warps=4, num_stages=1, **arguments):
        if (kernel.__name__, arguments.get('v') is None) in compiled:
            return
        compiled.add((kernel.__name__, arguments.get('v') is None))
        signature, constants = {}, {}
        for i, name in enumerate(kernel.arg_names):
            value = arguments[name]
            if value is None or name.isupper() or isinstance(value, int) and value == 1:  # as at a launch
                signature[name], constants[i, ] = 'constexpr', value
            else:
                signature[name] = names[value.dtype if isinstance(value, torch.Tensor) else type(value)]
        result = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget('cuda', capability, 32),
                                options=dict(num_warps=num_warps, num_stages=num_stages))
        assert result.asm['cubin'] and result.metadata.shared <= shared


    fused._Launcher.run = compile_only
    # shared memory of a T4, the smallest that has to do at the default sizes
    for capability, shared, case in ((80, 65536, ('gaussian', 0.1, '1d', True, 2, (2, 2, 150), 49, 20, 32)),
                                     (90, 65536, ('dot', 0.1, None, False, 2, (1, 1, 1), 4, 16, 16))):
        compiled.clear()
        tensors, others = inputs(*case)
        run(fused.transport, tensors, *others, torch.float32)
        print(capability, len(compiled))
'''


def run_script(tmp_path, root, code, stdin='', **environment):
    """In a file: triton reads the source of its kernels."""
    path = tmp_path / 'script.py'
    path.write_text(textwrap.dedent(code))
    result = subprocess.run([sys.executable, str(path)], input=stdin, capture_output=True, text=True, check=False,
                            env=dict(os.environ, PYTHONPATH=str(root), TRITON_CACHE_DIR=str(tmp_path), OMP_NUM_THREADS='1',
                                     **environment))
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope='module')
def interpreted(tmp_path_factory, root):
    return json.loads(run_script(tmp_path_factory.mktemp('triton'), root, COMPARE, json.dumps(CASES), TRITON_INTERPRET='1'))


@pytest.mark.parametrize('case', CASES)
def test_kernels_equal_the_plain_path_in_values_and_gradients(interpreted, case):
    for name, error in zip(('output', 'values', 'keys', 'references'), interpreted['errors'][case]):
        assert error < 1e-5, name


def test_kernels_store_no_array_of_tokens_and_references(interpreted):
    assert 0 < interpreted['largest'] < 4 * 150 * 40


def test_a_run_repeats_bit_by_bit(interpreted):
    assert interpreted['repeats']


def test_kernels_that_agree_are_taken_without_a_word_and_others_named(interpreted):
    assert interpreted['agreeing'] == []
    wrong, = interpreted['wrong']
    assert 'with 4 references and 16 channels a head: the gradient of the keys differs by ' in wrong


def test_kernels_compile_for_gpus(tmp_path, root):
    assert run_script(tmp_path, root, COMPILE) == '80 7\n90 7\n'


# ---- the choice: kernels on the device, if they agree with the plain path ----


@pytest.fixture
def use(monkeypatch):
    """Put a function in the place of the kernels, on this device; gives the calls that a module makes of it."""

    def put(function):
        calls = []

        def kernels(*args):
            if args[0].shape[2] == 30:  # the module's tokens, not those of the comparison
                calls.append(args)
            return function(*args)

        monkeypatch.setattr(choice, '_kernels', lambda values, references: kernels)
        return calls

    return put


def module(backend='auto', **kwargs):
    torch.manual_seed(0)
    return SelfOptimalTransport(32, num_references=4, head_dim=16, backend=backend, **kwargs)


def outputs_and_gradients(layer, x, mask=None):
    x = x.clone().requires_grad_()
    out = layer(x, mask)
    return [out, *torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize('padding', [False, True])
def test_module_hands_its_arguments_to_kernels_that_agree(use, padding):
    calls = use(plain.transport)
    x = torch.randn(2, 30, 32)
    mask = torch.arange(30) < torch.tensor([[30], [20]]) if padding else None
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        ours = outputs_and_gradients(module(), x, mask)
        assert len(calls) == 1  # they recompute on their own, so no checkpoint calls them again
    assert all(map(torch.equal, ours, outputs_and_gradients(module('plain'), x, mask)))
    assert len(calls) == 1


class _WrongGradient(torch.autograd.Function):

    @staticmethod
    def forward(ctx, keys):
        return keys.clone()

    @staticmethod
    def backward(ctx, grad):
        return 1.01 * grad


def wrong_output(*args):
    return 1.01 * plain.transport(*args)


def wrong_gradient_of_keys(values, keys, *args):
    return plain.transport(values, _WrongGradient.apply(keys), *args)


def not_a_number(*args):
    return plain.transport(*args) * float('nan')


def raises(*args):
    raise RuntimeError('no such instruction\non this device')


FAULTS = {
    wrong_output: r'the output differs by 1e-02 of its largest value, the gradient of the values .*, the gradient of the keys .*',
    wrong_gradient_of_keys: r': the gradient of the keys differs by 1e-02 of its largest value\.',
    not_a_number: 'the output differs by nan',
    raises: r'they raise RuntimeError: no such instruction\. ',
}


@pytest.mark.parametrize('function', FAULTS)
@pytest.mark.parametrize('kwargs', [{}, dict(prior=None, similarity='dot', nystrom=True)], ids=['default', 'other form'])
def test_kernels_that_do_not_agree_are_named_once_and_not_used(use, function, kwargs):
    calls = use(function)
    x = torch.randn(2, 30, 32)
    with pytest.warns(UserWarning, match=FAULTS[function]) as caught:
        ours = outputs_and_gradients(module(**kwargs), x)
        outputs_and_gradients(module(**kwargs), x)
    assert len(caught) == 1 and "backend='auto' computes by the plain path" in str(caught[0].message)
    assert not calls
    assert all(map(torch.equal, ours, outputs_and_gradients(module('plain', **kwargs), x)))


def test_each_form_of_the_kernels_is_compared_by_itself(use):
    """Without a prior, or with padding, other code is compiled."""
    use(lambda *args: plain.transport(*args) * (1.01 if args[6] is not None else 1))
    x = torch.randn(2, 30, 32)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        module()(x)
    with pytest.warns(UserWarning, match='do not agree'):
        module()(x, torch.ones(2, 30, dtype=torch.bool))


def test_backend_triton_goes_on_with_kernels_that_do_not_agree_and_says_so(use):
    calls = use(wrong_output)
    x = torch.randn(2, 30, 32)
    with pytest.warns(UserWarning, match="backend='triton' goes on with the kernels"):
        out = module('triton')(x)
    assert len(calls) == 1 and not torch.allclose(out, module('plain')(x))


@pytest.mark.parametrize('surroundings', [
    torch.no_grad, torch.inference_mode, lambda: torch.autocast('cpu', torch.bfloat16),
    lambda: torch.autograd.set_detect_anomaly(True)
], ids=['no_grad', 'inference_mode', 'autocast', 'anomaly'])
def test_what_surrounds_the_first_use_does_not_reach_the_comparison(use, surroundings):
    use(plain.transport)
    random = torch.get_rng_state()
    x = torch.randn(2, 30, 32, generator=torch.Generator().manual_seed(1))
    layer = module()
    torch.set_rng_state(random)
    with surroundings(), warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        layer(x)
    assert torch.equal(torch.get_rng_state(), random)


def test_first_use_may_be_inside_a_checkpoint(use):
    use(plain.transport)
    layer, x = module(), torch.randn(2, 30, 32, requires_grad=True)
    checkpoint(layer, x, use_reentrant=False).sum().backward()
    expected, = torch.autograd.grad(layer(x).sum(), x)
    assert torch.equal(x.grad, expected)


def test_backend_triton_without_cuda_raises_at_the_forward():
    layer = SelfOptimalTransport2d(32, num_references=4, backend='triton')
    with pytest.raises(RuntimeError, match=r"backend='triton'.*CUDA.*float32"):
        layer(torch.randn(1, 32, 4, 4))


def test_unknown_backend_raises():
    with pytest.raises(ValueError, match="backend='cuda' is unknown; choose from 'auto', 'plain', 'blocks', 'triton'"):
        SelfOptimalTransport(32, backend='cuda')


def test_layers_need_torch_alone(run_python):
    result = run_python('''
        import sys
        for name in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'triton'):
            sys.modules[name] = None
        import torch
        from hybrid_mm.layers import HMHSA, SelfOptimalTransport
        from hybrid_mm.layers.transport import choice

        class OnCuda:  # what is asked of a tensor before triton is
            is_cuda = True

        assert choice._kernels(OnCuda(), None) is None
        SelfOptimalTransport(32, 4)(torch.randn(1, 5, 32)).sum().backward()
        print(HMHSA(64)(torch.zeros(1, 64, 9, 9)).shape)
    ''')
    assert result.stdout.strip() == 'torch.Size([1, 64, 9, 9])', result.stderr
