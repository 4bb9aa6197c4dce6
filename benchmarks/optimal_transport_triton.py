"""Self-optimal transport in Triton kernels against matrix products, time and peak memory, measured in turn in one run on CUDA.

    python benchmarks/optimal_transport_triton.py [--tokens 1024 4096 16384 65536] [--references 49] [--eps 0.1] [--rounds 10]

Times are milliseconds, best of the rounds; memory is what torch's allocator holds at the peak beyond the inputs, in MiB.
`plain` is `transport` without kernels, recomputed in the backward pass as `SelfOptimalTransport` does it in training; `log` is
the same in the log domain, which a small eps needs. The last columns are the largest differences of outputs and gradients from
the plain path in float64, as a share of the largest value, for plain and fused. The run fails where fused is off by over 1e-4.
"""
import argparse
import sys
from functools import partial
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from torch.nn.functional import normalize  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from hybrid_mm.analysis.measurement import in_turn, peak_bytes  # noqa: E402
from hybrid_mm.layers.transport import definition  # noqa: E402
from hybrid_mm.layers.transport.choice import choose  # noqa: E402
from hybrid_mm.layers.transport.definition import Similarity, position_prior_1d  # noqa: E402


def run(arguments, name, train):
    """Output, and in training the gradients of values, keys and references."""
    values, _, references, similarity, _, prior = arguments
    with mock.patch.object(definition, 'NARROW', -1. if name == 'log' else definition.NARROW):
        transport = choose(values, references, similarity, prior, backend='triton' if name == 'fused' else 'plain')
        if not train:
            with torch.no_grad():
                return [transport(*arguments)]
        if name == 'fused':
            out = transport(*arguments)
        else:
            out = checkpoint(transport, *arguments, use_reentrant=False, preserve_rng_state=False)
        return [out, *torch.autograd.grad(out.square().sum(), arguments[:3])]


def inputs(n, args):
    tokens = torch.randn(args.batch, n, args.heads, 32, device='cuda')  # as linear layers write them
    values = tokens.transpose(1, 2).requires_grad_()
    keys = normalize(tokens, dim=-1).transpose(1, 2).requires_grad_()
    references = normalize(torch.randn(args.heads, args.references, 32, device='cuda'), dim=-1).requires_grad_()
    prior = position_prior_1d(n, args.references, 0.5, values)
    return values, keys, references, Similarity(eps=args.eps), args.iterations, prior


def in_float64(arguments):
    *tensors, similarity, iterations, prior = arguments
    prior = prior._replace(tokens=prior.tokens.double(), references=prior.references.double())
    return [*(tensor.detach().double().requires_grad_() for tensor in tensors), similarity, iterations, prior]


def error(ours, theirs):
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tokens', type=int, nargs='+', default=[1024, 4096, 16384, 65536])
    parser.add_argument('--references', type=int, default=49)
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--heads', type=int, default=4)
    parser.add_argument('--iterations', type=int, default=5)
    parser.add_argument('--eps', type=float, default=0.1)
    parser.add_argument('--rounds', type=int, default=10)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print('The kernels run on CUDA alone, and torch finds no CUDA device here.')
        sys.exit(1)

    torch.manual_seed(0)
    print(f'{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {args.batch}, {args.heads} heads of 32, '
          f'{args.references} references, {args.iterations} iterations, eps {args.eps}')
    names = 'plain', 'log', 'fused'
    print(f'{"tokens":>7} {"pass":>8}' + ''.join(f'{name + " ms":>10}' for name in names) + f'{"speed-up":>10}'
          + ''.join(f'{name + " MiB":>11}' for name in names) + f'{"error plain":>13}{"fused":>9}')
    worst = 0.
    for n in args.tokens:
        arguments = inputs(n, args)
        for train in (False, True):
            steps = {name: partial(run, arguments, name, train) for name in names}
            best = {name: 1e3 * min(values) for name, values in in_turn(steps, args.rounds).items()}
            memory = {name: peak_bytes(step) / 2**20 for name, step in steps.items()}
            results = {name: step() for name, step in steps.items()}
            exact = run(in_float64(arguments), 'plain', train)
            errors = [error(results[name], exact) for name in ('plain', 'fused')]
            worst = max(worst, errors[1])
            print(f'{n:>7} {"training" if train else "forward":>8}' + ''.join(f'{best[name]:>10.3f}' for name in names)
                  + f'{best["plain"] / best["fused"]:>10.2f}' + ''.join(f'{memory[name]:>11.1f}' for name in names)
                  + f'{errors[0]:>13.1e}{errors[1]:>9.1e}')
            del results, exact
    if worst > 1e-4:
        sys.exit(f'the kernels are off by {worst:.1e}')


if __name__ == '__main__':
    main()
