"""GLiT in dense mode against a plain reference of the same weights, measured in turn in one run.

    python benchmarks/glit_dense.py [--size 800 1280] [--arch tiny] [--batch 1] [--rounds 3]

The reference is what the released code does with an image of this size: all tokens in one sequence with the class token in
front, attention of all tokens to all by stored matrices in every block, the depthwise convolution along the whole sequence with
PyTorch's 1-D convolution. Dense mode has windows, in which the convolution runs as a 2-D one, and fused attention, global in
the blocks 3, 6, 9 and 11. Times are the best of the rounds: inference (evaluation, no gradients) and training (forward and
backward). Memory is what torch's allocator holds at the peak of a training step beyond weights and image. Two more rows tell
the parts apart: the reference with the 2-D convolution, and dense mode with global attention in all blocks.
"""
import argparse
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybrid_mm.compat import flush_denormals  # noqa: E402

flush_denormals()

import torch  # noqa: E402
from torch import nn  # noqa: E402

from hybrid_mm.analysis.measurement import in_turn, peak_bytes, run, stored_attention  # noqa: E402
from hybrid_mm.backbones import GLiT  # noqa: E402
from hybrid_mm.layers.global_local import DepthwiseConv1d  # noqa: E402

NAMES = 'dense', 'plain', 'plain, 2-D convolution', 'dense, all global'


def convolution_1d(self, x):
    return nn.Conv1d.forward(self, x.transpose(1, 2)).transpose(1, 2)


def step(name, models, x, train):
    with ExitStack() as stack:
        if name.startswith('plain'):
            stack.enter_context(mock.patch('torch.nn.functional.scaled_dot_product_attention', stored_attention))
        if name == 'plain':
            stack.enter_context(mock.patch.object(DepthwiseConv1d, 'forward', convolution_1d))
        model = models[name].train(train)
        run(model, x, train)
        model.zero_grad()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='tiny', choices=list(GLiT.arch_settings))
    parser.add_argument('--size', type=int, nargs=2, default=(800, 1280), metavar=('H', 'W'))
    parser.add_argument('--batch', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=3)
    args = parser.parse_args()

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    dense, plain, all_global = (model.to(device) for model in (
        GLiT(args.arch), GLiT(args.arch, 'image'), GLiT(args.arch, global_blocks='all')))
    models = dict(zip(NAMES, (dense, plain, plain, all_global)))
    x = torch.randn(args.batch, 3, *args.size, device=device)

    inference, training = ({name: partial(step, name, models, x, train) for name in NAMES} for train in (False, True))
    times = [in_turn(steps, args.rounds) for steps in (inference, training)]
    memory = {name: peak_bytes(run_once) for name, run_once in training.items()}

    print(f'GLiT {args.arch}, {args.batch} x {args.size[0]}x{args.size[1]}, {device}, {torch.get_num_threads()} threads, '
          f'best of {args.rounds}; in brackets, plain over this one')
    print(f'{"":24} inference s       training s        peak MiB in training')
    for name in NAMES:
        cells = [f'{min(of_mode[name]):6.3f} ({min(of_mode["plain"]) / min(of_mode[name]):5.2f}x)' for of_mode in times]
        print(f'{name:24} {cells[0]:17} {cells[1]:17} {memory[name] / 2**20:8.0f} '
              f'(this over plain {memory[name] / memory["plain"]:.2f})')


if __name__ == '__main__':
    main()
