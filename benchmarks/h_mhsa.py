"""TransCNN with fused attention in channels_last, against stored attention matrices in NCHW, measured in turn in one run.

    python benchmarks/h_mhsa.py [--size 800 1280] [--batch 1] [--rounds 3] [--train]

The baseline is what the released code does: the same network, attention by two matrix products and a softmax.
"""
import argparse
import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybrid_mm.compat import flush_denormals  # noqa: E402

flush_denormals()

import torch  # noqa: E402

from hybrid_mm.analysis.measurement import in_turn, run, stored_attention  # noqa: E402
from hybrid_mm.backbones import TransCNN  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='small', choices=list(TransCNN.arch_settings))
    parser.add_argument('--size', type=int, nargs=2, default=(800, 1280), metavar=('H', 'W'))
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--train', action='store_true', help='forward and backward instead of inference')
    args = parser.parse_args()

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model = TransCNN(args.arch, memory_format='channels_last').to(device).train(args.train)
    x = torch.randn(args.batch, 3, *args.size, device=device)

    def stored():
        with mock.patch('torch.nn.functional.scaled_dot_product_attention', stored_attention), \
                mock.patch.object(model, 'memory_format', 'contiguous'):
            run(model, x, args.train)

    times = in_turn(dict(fused=lambda: run(model, x, args.train), stored=stored), args.rounds)
    fused, stored = min(times['fused']), min(times['stored'])
    print(f'TransCNN {args.arch}, {args.batch} x {args.size[0]}x{args.size[1]}, {"training" if args.train else "inference"}, '
          f'{device}, {torch.get_num_threads()} threads, best of {args.rounds}: fused {fused:.3f} s, stored {stored:.3f} s, '
          f'ratio {fused / stored:.2f}')


if __name__ == '__main__':
    main()
