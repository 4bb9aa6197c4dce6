"""Self-optimal transport against softmax attention, measured in turn in one run, and the ways to its gradient.

    python benchmarks/self_optimal_transport.py [--tokens 1024 4096 16384 65536] [--references 49] [--rounds 3]

Both are whole layers on 64 channels in two heads, projections included; softmax attention is torch's fused one. The second table
changes the number of Sinkhorn's iterations at 16384 tokens and compares what the backward pass can do: compute the plan anew
from the column factors that the forward pass kept, in blocks of tokens or in kernels ("default") or by operators on whole
arrays ("recompute"), keep the plan ("keep"), or let autograd record every iteration ("unrolled"). "implicit" is the gradient at
the fixed point, which needs no iteration of the forward pass; its column "error" says how far it is from the gradient of what
was computed, relative to its largest value, in float64. "kept" is what lies in memory between the passes, for each layer of a
network at once; "peak" is one layer's, in its backward pass.
"""
import argparse
import sys
from functools import partial
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybrid_mm.compat import flush_denormals, keep_freed_memory  # noqa: E402

flush_denormals()
keep_freed_memory()  # as the tools do

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from hybrid_mm.analysis.measurement import in_turn, peak_bytes, run  # noqa: E402
from hybrid_mm.layers import SelfOptimalTransport  # noqa: E402
from hybrid_mm.layers.transport import sinkhorn  # noqa: E402

CHANNELS, HEADS = 64, 2


class SoftmaxAttention(nn.Module):

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(CHANNELS, 3 * CHANNELS)
        self.proj = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # (3, B, h, n, d)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def kept_bytes(layer, x):
    """What the forward pass leaves for the backward pass, each storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x)
    del out
    return sum(storages.values())


def against_softmax(args, device):
    print('tokens  mode                 |  transport   softmax    ratio | transport MiB  softmax MiB | growth of time, memory')
    last = {}
    for n in args.tokens:
        x = torch.randn(1, n, CHANNELS, device=device, requires_grad=True)
        layers = {'transport': SelfOptimalTransport(CHANNELS, args.references).to(device)}
        if n <= args.softmax_up_to:
            layers['softmax'] = SoftmaxAttention().to(device)
        for train in (False, True):
            steps = {name: partial(run, layer, x, train) for name, layer in layers.items()}
            best = {name: min(values) for name, values in in_turn(steps, args.rounds).items()}
            memory = {name: peak_bytes(step) for name, step in steps.items()}
            softmax, nan = best.get('softmax', float('nan')), float('nan')
            line = (f'{n:6}  {"forward and backward" if train else "forward":20} | {1e3 * best["transport"]:7.1f} ms '
                    f'{1e3 * softmax:7.0f} ms  {best["transport"] / softmax:6.3f} | {memory["transport"] / 2**20:13.1f}  '
                    f'{memory.get("softmax", nan) / 2**20:11.1f} | ')
            if train in last:
                line += f'{best["transport"] / last[train][0]:.2f}, {memory["transport"] / last[train][1]:.2f}'
            last[train] = best['transport'], memory['transport']
            print(line, flush=True)


class Implicit(torch.autograd.Function):
    """Sinkhorn with the gradient at the fixed point: one linear system of m unknowns a head."""

    @staticmethod
    def forward(ctx, kernel, rows, iterations, form):
        f, g, _ = form.solve(kernel, rows, iterations)
        ctx.save_for_backward(kernel, rows, f, g)
        return f, g

    @staticmethod
    def backward(ctx, df, dg):
        K, rows, f, g = ctx.saved_tensors
        m = K.shape[-1]
        # log f = log a - log(K g), log g = log b - log(K^T f): (I - R C) d log g = what comes in, solved transposed
        P = f[..., None] * K * g[..., None, :]
        p, q = P / P.sum(-1, keepdim=True), P / P.sum(-2, keepdim=True)
        u, v = df * f, dg * g
        right = v - (u[..., None, :] @ p)[..., 0, :]
        system = torch.eye(m, dtype=K.dtype, device=K.device) - q.transpose(-1, -2) @ p
        system = system + 1 / m  # the constant shift of f against g is free
        w = torch.linalg.solve(system.transpose(-1, -2), right[..., None])[..., 0]
        row = u - (q @ w[..., None])[..., 0]
        return -(row[..., None] * p + q * w[..., None, :]) / K, None, None, None


class Unrolled:

    @staticmethod
    def apply(kernel, rows, iterations, form):
        return form.solve(kernel, rows, iterations)[:2]


def ways_to_the_gradient(args, device):
    plain = dict(backend='plain')
    n, ways = 16384, {'default': (sinkhorn.Sinkhorn, {}),
                      'recompute': (sinkhorn.Sinkhorn, plain), 'keep': (sinkhorn.Sinkhorn, dict(plain, recompute=False)),
                      'unrolled': (Unrolled, dict(plain, recompute=False)), 'implicit': (Implicit, dict(plain, recompute=False))}
    print(f'\n{n} tokens, forward and backward\niterations  way       |  time ms  peak MiB  kept MiB  error')
    x = torch.randn(1, n, CHANNELS, device=device, requires_grad=True)
    small = torch.randn(1, 512, CHANNELS, device=device, dtype=torch.float64, requires_grad=True)
    for iterations in (5, 20, 80):
        exact = None
        for name, (function, options) in ways.items():
            torch.manual_seed(0)
            layer = SelfOptimalTransport(CHANNELS, args.references, iterations=iterations, **options).to(device)
            with mock.patch.object(sinkhorn, 'Sinkhorn', function):
                step = partial(run, layer, x, True)
                best = min(in_turn({name: step}, args.rounds)[name])
                memory, kept = peak_bytes(step), kept_bytes(layer, x)
                grad, = torch.autograd.grad(layer.double()(small).square().sum(), small)
            exact = grad if exact is None else exact
            print(f'{iterations:10}  {name:9} | {1e3 * best:8.1f}  {memory / 2**20:8.1f}  {kept / 2**20:8.1f}  '
                  f'{((grad - exact).abs().max() / exact.abs().max()).item():.0e}', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tokens', type=int, nargs='+', default=(1024, 4096, 16384, 65536))
    parser.add_argument('--references', type=int, default=49)
    parser.add_argument('--softmax-up-to', type=int, default=16384, help='more tokens without softmax attention')
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()

    torch.manual_seed(0)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    print(f'{device}, {torch.get_num_threads()} threads, {args.references} references, best of {args.rounds}')
    against_softmax(args, device)
    ways_to_the_gradient(args, device)


if __name__ == '__main__':
    main()
