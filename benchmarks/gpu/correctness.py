"""Layers, backbones and kernels on a GPU against float64 on the CPU.

    python benchmarks/gpu/correctness.py [--device cuda] [--out FILE.json]

=========== =================================================================================================================
layers      output and gradients of each layer, weights and input in each precision, and under autocast
parc        each way to compute ParC, in each precision, both memory formats
backbones   outputs and gradients of each, in evaluation, in float32, float16 and bfloat16 (autocast), both memory formats
training    the same in training mode, with the statistics of the batch, in float32
kernels     Triton's kernels of the transport at 20 shapes against the plain path
ddp         one process with DistributedDataParallel: the gradients of each backbone are those without
compile     each backbone through torch.compile: outputs and gradients, in float32 and bfloat16
=========== =================================================================================================================

The cases and the tolerances are those of the tests, without pytest. An error is a difference over the size of what is right.
What is compiled has fewer blocks, and `--workers` processes do it beside the rest.
`TIME_LEFT` in the environment says how many seconds there are; what is not reached is named.
"""
import argparse
import concurrent.futures
import copy
import importlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from functools import lru_cache, partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests'), str(ROOT / 'tests' / 'cuda')]

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

flush_denormals()
mend_torchvision()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from backbones.features import SHORT  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

import hybrid_mm.registry  # noqa: E402, F401
from hybrid_mm.errors import first_line  # noqa: E402
from hybrid_mm.networks import quiet  # noqa: E402
from hybrid_mm.output import whole_file  # noqa: E402

attention, parc, backbones, kernels, transport = map(importlib.import_module, (
    'layers.attention_cases', 'test_parc_cuda', 'test_backbones_cuda', 'test_transport_cuda', 'layers.transport_cases'))

_FOR_STATISTICS = 20  # times the tolerance: norms over the dozen values of the last maps magnify rounding
FORMATS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
MORE_KERNELS = {  # beside those of the tests
    'tiny, stage 2': ('gaussian', 0.03, '2d', False, 10, (2, 4, 784), 49, 32, 32),
    'tiny, stage 4': ('gaussian', 0.03, '2d', False, 10, (2, 16, 49), 49, 32, 32),
    'detector, stage 2': ('gaussian', 0.03, '2d', False, 10, (1, 4, 16700), 49, 32, 32),
    'one head': ('gaussian', 0.03, '1d', False, 10, (4, 1, 1023), 49, 16, 16),
    'few references': ('dot', 0.1, None, False, 3, (2, 2, 1025), 9, 32, 32),
    'padding in two dimensions': ('gaussian', 0.1, '2d', True, 5, (3, 2, 960), 49, 32, 32),
}


def distance(ours, theirs):
    """The largest difference of two lists of tensors over the largest value of the second, tensor by tensor."""
    return max(((a.detach().cpu().double() - b).abs().max() / b.abs().max().clamp(min=1e-6)).item()
               for a, b in zip(ours, theirs) if b.numel())


def layer(name, form, memory_format, device):
    dtype = getattr(torch, form.split()[-1])
    channels, module = attention.build(name, dtype=torch.float32 if 'autocast' in form else dtype)
    module.eval()  # DropPath draws by the device
    x = torch.randn(2, channels, 9, 10).to(next(module.parameters()))
    expected = attention.outputs_and_gradients(copy.deepcopy(module).double(), x.double())
    x = x.to(device, memory_format=FORMATS[memory_format])
    ours = attention.outputs_and_gradients(module.to(device), x, torch.autocast(device.type, dtype, enabled='autocast' in form))
    if not all(tensor.isfinite().all() for tensor in ours):
        return float('nan'), attention.TOLERANCES[form]
    parts = [attention.error(ours[part], expected[part]) for part in (slice(0, 1), slice(1, 2), slice(2, None))]
    return max(parts[0], parts[1] / 3, parts[2] / 3), attention.TOLERANCES[form]


def parc_layer(backend, dtype, memory_format, device):
    torch.manual_seed(0)
    image = torch.randn(3, 8, 14, 24 if device.type == 'cpu' else 66).to(device, dtype, memory_format=FORMATS[memory_format])
    module = parc.make(backend, True, device, dtype)
    x = image.requires_grad_()
    y = module(x)
    ours = [y, *torch.autograd.grad(y, [x, *module.parameters()], parc.cotangent_of(y).to(device, dtype))]
    return max(((a.cpu().double() - b).norm() / b.norm()).item() for a, b in zip(ours, parc.definition(module, x))
               ), parc.TOLERANCE[dtype]


@lru_cache(maxsize=4)
def expected_of(name, training=False, short=False):
    network = built(name, training, **(SHORT.get(name, {}) if short else {}))
    return backbones.step(network.double(), image_of().double(), torch.float64)


def built(name, training, **kwargs):
    with quiet():
        network = backbones.build(name, **kwargs)
    network.train(training)  # of some it returns nothing
    return network


def image_of():
    return torch.randn(2, 3, 64, 83, generator=torch.Generator().manual_seed(0))


def backbone(name, dtype, memory_format, training, device):
    ours = name in backbones.OURS
    image = image_of().to(device)
    if not ours and memory_format == 'channels_last':
        image = image.contiguous(memory_format=torch.channels_last)
    network = built(name, training, **(dict(memory_format=memory_format) if ours else {})).to(device)
    return beside(backbones.step(network, image, dtype), expected_of(name, training), dtype, _FOR_STATISTICS if training else 1)


def compiled(name, dtype, backend, device):
    torch._dynamo.reset()
    network = torch.compile(built(name, False, **SHORT.get(name, {})).to(device), backend=backend)
    return beside(backbones.step(network, image_of().to(device), dtype), expected_of(name, short=True), dtype)


def beside(found, wanted, dtype, factor=1):
    """The larger of the errors of outputs and of gradients, each over its tolerance, as the tests have them."""
    (outputs, gradient), (expected, expected_gradient) = found, wanted
    of_outputs, of_gradient = (factor * tolerance for tolerance in backbones.TOLERANCES[dtype])
    return max(distance(outputs, expected) / of_outputs,
               ((gradient - expected_gradient).norm() / expected_gradient.norm()).item() / of_gradient), 1.


def kernel(case, device):
    from hybrid_mm.layers.transport import fused, plain
    case = kernels.fit(case, device)
    tensors = transport.inputs_of(case)
    ours = transport.run(fused.transport, tensors, case, torch.float32, device)
    return distance(ours, transport.run(plain.transport, tensors, case, torch.float64, device='cpu')), 1e-4


def distributed(name, device):
    """Gradients of one process with DistributedDataParallel, over those without it."""
    image = image_of().to(device)
    _, expected = backbones.step(built(name, False).to(device), image, torch.float32)
    ids = [0] if device.type == 'cuda' else None
    _, ours = backbones.step(DistributedDataParallel(built(name, False).to(device), device_ids=ids), image, torch.float32)
    return ((ours - expected).norm() / expected.norm()).item(), 1e-3


def checks(device, small):
    """(group, name, function that gives an error and the largest that is allowed), the cheap ones first."""
    formats = list(FORMATS)[1:] if small else list(FORMATS)
    names = ['HATNet'] if small else list(backbones.BACKBONES)
    layers = ['h_mhsa', 'transport'] if small else [
        name for name in attention.LAYERS if name != 'transport_in_blocks' or device.type == 'cpu']
    for name in layers:
        for form in ['float32', 'autocast bfloat16'] if small else attention.TOLERANCES:
            yield from (('layers', f'{name}, {form}, {memory}', partial(layer, name, form, memory)) for memory in formats)
    for backend in ['gemm'] if small else parc.BACKENDS:
        for dtype in [torch.float32] if small else parc.DTYPES:
            yield from (('parc', f'{backend}, {dtype}, {memory}', partial(parc_layer, backend, dtype, memory))
                        for memory in formats)
    cases = {**kernels.CASES, **MORE_KERNELS}
    interpreted = device.type == 'cpu' and os.environ.get('TRITON_INTERPRET')  # slowly
    for name in ['one token'] if small else cases if device.type == 'cuda' or interpreted else []:
        yield 'kernels', name, partial(kernel, cases[name])
    for name in names:
        for dtype in [torch.float32, torch.bfloat16] if small else backbones.TOLERANCES:
            yield from (('backbones', f'{name}, {dtype}, {memory}', partial(backbone, name, dtype, memory, False))
                        for memory in formats)
        yield 'training', f'{name}, float32', partial(backbone, name, torch.float32, 'channels_last', True)
    yield from (('ddp', name, partial(distributed, name)) for name in (names[:1] if small else names))
    for dtype in [torch.float32] if small else [torch.float32, torch.bfloat16]:
        for name in names[:1] if small else names:
            yield 'compile', f'{name}, {dtype}', partial(compiled, name, dtype, 'eager' if small else 'inductor')


def result(check, device):
    """What a check found, or what went wrong in it."""
    begun, own = time.monotonic(), {}
    try:
        error, allowed = check(device)
        own.update(error=error, allowed=allowed)
        if not error <= allowed:  # NaN, too
            own['failed'] = f'error {error:.3g}, above {allowed:.3g}'
    except Exception as error:
        own['failed'] = f'{type(error).__name__}: {first_line(error)}'
    return dict(own, seconds=round(time.monotonic() - begun, 3))


def results(todo, device, workers, end):
    """(group, name, result) of all checks; those that compile by other processes, and no more of them than time allows."""
    late = dict(failed='no time was left', reached=False, seconds=0)
    elsewhere, pool = {}, None
    if workers:
        pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'), set_up, (device.type, ))
        elsewhere = {pool.submit(result, check, device): (group, name) for group, name, check in todo if group == 'compile'}
    for group, name, check in todo:
        if pool is None or group != 'compile':
            yield group, name, result(check, device) if time.monotonic() < end else late
    if pool is not None:
        done, missing = concurrent.futures.wait(elsewhere, max(0., end - time.monotonic()))
        for future in done:
            error = future.exception()  # where its process died
            own = future.result() if error is None else dict(failed=f'{type(error).__name__}: {first_line(error)}', seconds=0)
            yield (*elsewhere[future], own)
        yield from ((*elsewhere[future], late) for future in missing)
        processes = list(pool._processes.values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:  # what compiles now would go on
            process.kill()


def set_up(kind):
    """Float32 is float32, and not TF32."""
    if kind == 'cuda':
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--small', action='store_true', help='a few checks of each kind')
    parser.add_argument('--workers', type=int, default=0, help='processes that compile (default: none but this one)')
    parser.add_argument('--out', type=Path, default=Path('correctness.json'))
    args = parser.parse_args()
    device, start, found, written = torch.device(args.device), time.monotonic(), [], 0.
    end = start + float(os.environ.get('TIME_LEFT', 1e6)) - 10
    set_up(device.type)
    on = torch.cuda.get_device_name() if device.type == 'cuda' else 'cpu'

    def write():
        with whole_file(args.out) as partial_file:
            partial_file.write_text(json.dumps(dict(
                device=on, torch=torch.__version__, seconds=round(time.monotonic() - start, 1), checks=found), indent=1) + '\n')

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo', f'file://{folder}/group', rank=0, world_size=1)
        for group, name, own in results(list(checks(device, args.small)), device, args.workers, end):
            found.append(dict(own, group=group, name=name))
            if 'failed' in own and own.get('reached', True):
                print(f'{group}: {name}: {own["failed"]}', flush=True)
            if time.monotonic() - written > 1:
                write()
                written = time.monotonic()
        write()
        dist.destroy_process_group()
    for group in dict.fromkeys(own['group'] for own in found):
        same = [own for own in found if own['group'] == group]
        worst = max((own['error'] / own['allowed'] for own in same if 'error' in own), default=float('nan'))
        late = sum(not own.get('reached', True) for own in same)
        print(f'{group}: {sum("failed" not in own for own in same)} of {len(same)} hold, the worst at {worst:.2f} of what is '
              f'allowed{f", {late} not reached" if late else ""}, {sum(own["seconds"] for own in same):.0f} s')
    return int(any('failed' in own for own in found))


if __name__ == '__main__':
    raise SystemExit(main())
