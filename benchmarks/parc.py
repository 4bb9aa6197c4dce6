"""ParC's backends along H and W against each other and against a depthwise 7x7 convolution, measured in turn in one run.

    python benchmarks/parc.py [--sizes 7 14 28 56 112 224] [--channels 64] [--batch 4] [--dense] [--rounds 5]

Times are milliseconds, best of the rounds: inference (evaluation, no gradients, kernels kept) and training (forward and
backward). `auto/best` is the time of the backend that `auto` stands for over that of the fastest; `direct/auto` is the speed-up
over the released form. Memory is what torch's allocator holds at the peak beyond input and weights, over that of the 7x7
convolution. The CPU's crossovers of `hybrid_mm.layers.parc.crossovers` come from this table; a GPU's are a guess, which this
table can check there.
"""
import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from torch import nn  # noqa: E402

from hybrid_mm.analysis.measurement import in_turn, peak_bytes  # noqa: E402
from hybrid_mm.compat import flush_denormals  # noqa: E402
from hybrid_mm.layers import ParC2d  # noqa: E402
from hybrid_mm.layers.parc.crossovers import choose_backend  # noqa: E402

BACKENDS = 'direct', 'fft', 'gemm'
DTYPES = dict(float32=torch.float32, float64=torch.float64, bfloat16=torch.bfloat16, float16=torch.float16)


def clear(layer, x):
    x.grad = None
    for parameter in layer.parameters():
        parameter.grad = None


def step(layer, x, train):
    if train:
        layer(x).backward(x.detach())
    else:
        with torch.no_grad():
            layer(x)


def measure(layers, x, train, rounds):
    for layer in layers.values():
        layer.train(train)
    steps = {name: partial(step, layer, x, train) for name, layer in layers.items()}
    times = in_turn(steps, rounds, at_least=0.02)
    memory = {}
    for name, layer in layers.items():
        clear(layer, x)
        memory[name] = peak_bytes(steps[name])
    return {name: 1e3 * min(values) for name, values in times.items()}, memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', default=[7, 14, 28, 56, 112, 224])
    parser.add_argument('--channels', type=int, default=64)
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--dense', action='store_true', help='one kernel for each pair of channels')
    parser.add_argument('--dtype', default='float32', choices=list(DTYPES))
    parser.add_argument('--formats', nargs='+', default=['NCHW', 'NHWC'], choices=['NCHW', 'NHWC'])
    parser.add_argument('--modes', nargs='+', default=['inference', 'training'], choices=['inference', 'training'])
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()

    flush_denormals()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    dtype = DTYPES[args.dtype]
    torch.manual_seed(0)
    print(f'{"dense" if args.dense else "depthwise"}, {args.channels} channels, batch {args.batch}, {args.dtype}, {device}, '
          f'{torch.get_num_threads()} threads')
    print('mode       format    n axis |  direct     fft    gemm     7x7 | auto    auto/best direct/auto | memory over 7x7: '
          'direct  fft gemm auto')
    for mode in args.modes:
        for layout in args.formats:
            for n in args.sizes:
                memory_format = torch.channels_last if layout == 'NHWC' else torch.contiguous_format
                x = torch.randn(args.batch, args.channels, n, n, device=device, dtype=dtype)
                x = x.contiguous(memory_format=memory_format).requires_grad_(mode == 'training')
                for axis in 'HW':
                    layers = {b: ParC2d(args.channels, axis, n, not args.dense, backend=b) for b in BACKENDS}
                    layers['7x7'] = nn.Conv2d(args.channels, args.channels, 7, padding=3, groups=args.channels)
                    layers = {name: layer.to(device, dtype) for name, layer in layers.items()}
                    if args.dense and n > 56:  # its matrix would take gigabytes
                        del layers['gemm']
                    ms, memory = measure(layers, x, mode == 'training', args.rounds)
                    auto = choose_backend(x, axis, not args.dense, mode == 'training')
                    best = min(ms[b] for b in BACKENDS if b in ms)
                    row = ' '.join(f'{ms.get(name, float("nan")):7.2f}' for name in (*BACKENDS, '7x7'))
                    over = ' '.join(f'{memory.get(name, float("nan")) / memory["7x7"]:4.2f}' for name in (*BACKENDS, auto))
                    print(f'{mode:10} {layout:6} {n:4} {axis:4} | {row} | {auto:6} {ms[auto] / best:10.2f} '
                          f'{ms["direct"] / ms[auto]:11.2f} |              {over}', flush=True)


if __name__ == '__main__':
    main()
