"""A network with ParC against the one that it improves on, measured in turn in one run.

    python benchmarks/parc_network.py [--network convnext] [--size 768 1280] [--batch 1] [--rounds 5] [--train]
"""
import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybrid_mm.compat import flush_denormals  # noqa: E402

flush_denormals()

import torch  # noqa: E402

from hybrid_mm.analysis.measurement import in_turn, run  # noqa: E402
from hybrid_mm.backbones import ParCConvNeXt, ParCMobileNetV2, ParCNet, ParCResNet  # noqa: E402

NETWORKS = dict(convnext=ParCConvNeXt, mobilenet_v2=ParCMobileNetV2, parcnet=ParCNet, resnet=ParCResNet)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', default='convnext', choices=list(NETWORKS))
    parser.add_argument('--size', type=int, nargs=2, default=(768, 1280), metavar=('H', 'W'))
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--train', action='store_true', help='forward and backward instead of inference')
    args = parser.parse_args()

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    network = NETWORKS[args.network]
    models = {'ParC': network(), 'ParC, direct': network(backend='direct'), 'without': network(insert_locations=())}
    x = torch.randn(args.batch, 3, *args.size, device=device)
    for model in models.values():
        model.to(device).train(args.train)
    times = in_turn({name: partial(run, model, x, args.train) for name, model in models.items()}, args.rounds)
    best = {name: min(values) for name, values in times.items()}
    print(f'{network.__name__}, {args.batch} x {args.size[0]}x{args.size[1]}, {"training" if args.train else "inference"}, '
          f'{device}, {torch.get_num_threads()} threads, best of {args.rounds}: ' +
          ', '.join(f'{name} {value:.3f} s ({value / best["without"]:.2f})' for name, value in best.items()))


if __name__ == '__main__':
    main()
