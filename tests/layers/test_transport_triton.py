"""The kernels run in Triton's interpreter on the CPU, and are compiled for GPUs that are not there.

The first in a process of its own: the interpreter is chosen by the environment before triton is imported.
"""
import json
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
from layers.transport_cases import inputs_of, run
from torch.utils.checkpoint import checkpoint

from hybrid_mm.layers import SelfOptimalTransport, SelfOptimalTransport2d
from hybrid_mm.layers.transport import choice, plain

# as `transport_cases` reads them; a program takes 64 tokens in blocks of 16, where m is 49
CASES = {
    'gaussian': ('gaussian', 0.1, None, False, 2, (1, 1, 70), 49, 32, 32),
    'dot_2d': ('dot', 0.1, '2d', False, 2, (1, 2, 70), 49, 32, 32),
    'sharp_1d_padding': ('gaussian', 0.01, '1d', True, 2, (2, 1, 70), 49, 32, 32),
    'sharp_dot_padding': ('dot', 0.01, None, True, 3, (2, 1, 70), 49, 16, 16),
    'fewer_tokens_than_references': ('gaussian', 0.1, '2d', False, 2, (1, 2, 30), 49, 32, 32),
    'four_references': ('dot', 0.1, '1d', True, 2, (2, 2, 70), 4, 20, 24),
    'one_iteration_one_token': ('gaussian', 0.01, None, False, 1, (1, 1, 1), 4, 16, 16),
}
COMPARE = '''
    import json, sys, warnings
    import torch
    from contextlib import nullcontext
    from torch.utils._python_dispatch import TorchDispatchMode
    from hybrid_mm.layers import SelfOptimalTransport
    from hybrid_mm.layers.transport import choice, fused, plain
    from layers.transport_cases import inputs_of, run

    torch.set_num_threads(1)


    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **kwargs or {})
            self.bytes = max(self.bytes, out.nbytes if isinstance(out, torch.Tensor) else 0)
            return out


    errors, largest = {}, Largest()
    for name, case in json.loads(sys.stdin.read()).items():
        tensors = inputs_of(case)
        with largest if name == 'sharp_1d_padding' else nullcontext():
            ours = run(fused.transport, tensors, case, torch.float32)
        theirs = run(plain.transport, tensors, case, torch.float64)
        errors[name] = [float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)) for a, b in zip(ours, theirs)]
        if name == 'sharp_1d_padding':
            repeats = all(map(torch.equal, ours, run(fused.transport, tensors, case, torch.float32)))

    choice._kernels = lambda values, references: fused.transport


    def warned():  # of the first use of a module
        choice._agrees_with_plain.cache_clear()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            layer = SelfOptimalTransport(32, num_references=4, head_dim=16, iterations=2)
            layer(torch.randn(1, 9, 32)).sum().backward()
        return [str(w.message) for w in caught]


    agreeing, launch = warned(), fused._Launcher.__call__

    def wrong(self, kernel, **arguments):
        launch(self, kernel, **arguments)
        if kernel is fused.reverse:
            arguments['dx'] *= 1.01

    fused._Launcher.__call__ = wrong
    print(json.dumps(dict(errors=errors, largest=largest.bytes, repeats=repeats, agreeing=agreeing, wrong=warned())))
'''


@pytest.fixture(scope='module')
def interpreted(root):
    environment = dict(os.environ, PYTHONPATH=f'{root}{os.pathsep}{root / "tests"}', TRITON_INTERPRET='1', OMP_NUM_THREADS='1')
    result = subprocess.run([sys.executable, '-c', textwrap.dedent(COMPARE)], input=json.dumps(CASES), capture_output=True,
                            text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize('case', CASES)
def test_kernels_equal_the_plain_path_in_values_and_gradients(interpreted, case):
    for name, error in zip(('output', 'values', 'keys', 'references'), interpreted['errors'][case]):
        assert error < 1e-5, name


def test_kernels_store_no_array_of_tokens_and_references(interpreted):
    assert 0 < interpreted['largest'] < 4 * 2 * 70 * 49


def test_a_run_repeats_bit_by_bit(interpreted):
    assert interpreted['repeats']


def test_kernels_that_agree_are_taken_without_a_word_and_others_named(interpreted):
    assert interpreted['agreeing'] == []
    wrong, = interpreted['wrong']
    assert 'with 4 references and 16 channels a head: the gradient of the keys differs by ' in wrong


@pytest.mark.parametrize('capability, case', [
    (80, ('gaussian', 0.1, '1d', True, 2, (2, 2, 150), 49, 20, 32)),
    (90, ('dot', 0.1, None, False, 2, (1, 1, 1), 4, 16, 16)),
])
def test_kernels_compile_for_gpus(monkeypatch, tmp_path, capability, case):
    if os.environ.get('TRITON_INTERPRET'):
        pytest.skip('the interpreter takes the place of the compiler')
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from hybrid_mm.layers.transport import fused

    names = {torch.float32: '*fp32', torch.uint8: '*u8', float: 'fp32', int: 'i32'}
    compiled = set()

    def compile_only(self, kernel, **arguments):
        form = kernel.__name__, arguments.get('v') is None
        if form in compiled:
            return
        compiled.add(form)
        arguments.update(self.shared)
        signature, constants = {}, {}
        for i, name in enumerate(kernel.arg_names):
            value = arguments[name]
            if value is None or name.isupper() or isinstance(value, int) and value == 1:  # as at a launch
                signature[name], constants[i, ] = 'constexpr', value
            else:
                signature[name] = names[value.dtype if isinstance(value, torch.Tensor) else type(value)]
        result = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget('cuda', capability, 32),
                                options={name: arguments[name] for name in ('num_warps', 'num_stages')})
        # the shared memory of a T4, the smallest that has to do at the default sizes
        assert result.asm['cubin'] and result.metadata.shared <= 65536

    monkeypatch.setenv('TRITON_CACHE_DIR', str(tmp_path))
    monkeypatch.setattr(fused._Launcher, '__call__', compile_only)
    run(fused.transport, inputs_of(case), case, torch.float32)
    assert len(compiled) == 6


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
