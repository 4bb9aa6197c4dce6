"""How much the transport plan of an untrained SeTformer says about its tokens, on pictures of the synthetic shapes.

    python tools/datasets/make_shapes.py
    python benchmarks/setformer_entropy.py [--arch mini] [--images 8] [--pictures data/shapes/coco/train2017]

For each setting: the entropy of the plan's rows as a share of the largest possible (1: every token goes to all references
alike), the mean over the blocks of each stage and the largest of all blocks; and the largest relative error of a row sum after
3, 5 and 10 iterations. All settings see the same features: those of a network with random references and the default settings.
"""
import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybrid_mm.compat import flush_denormals  # noqa: E402

flush_denormals()

import cv2  # noqa: E402
import torch  # noqa: E402

from hybrid_mm.backbones import SeTformer  # noqa: E402
from hybrid_mm.layers.transport.definition import Similarity, row_entropy  # noqa: E402
from hybrid_mm.layers.transport.plain import plan  # noqa: E402

MEAN, STD = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
SETTINGS = [('gaussian', sigma, eps) for sigma in (0.5, 1.) for eps in (0.1, 0.05, 0.03, 0.02)]
SETTINGS += [('dot', None, eps) for eps in (0.2, 0.1, 0.05)]


def read(path):
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return ((torch.from_numpy(image).float() - MEAN) / STD).permute(2, 0, 1)


def features(net, x):
    """Unit keys (B, h, n, d) and unit references (h, m, d) of each block, by stage."""
    stages = [[] for _ in net.stages]

    def hook(found):
        return lambda layer, inputs, output: found.append(
            layer._prepare(layer.value(inputs[0].flatten(2).transpose(1, 2)))[1:])

    for found, blocks in zip(stages, net.stages):
        for block in blocks:
            block.attn.register_forward_hook(hook(found))
    net(x)
    return stages


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', default='mini', choices=list(SeTformer.arch_settings))
    parser.add_argument('--images', type=int, default=8)
    parser.add_argument('--pictures', type=Path, default=Path('data/shapes/coco/train2017'))
    args = parser.parse_args()

    files = sorted(args.pictures.glob('*'))[:args.images]
    if not files:
        raise SystemExit(f'{args.pictures} holds no pictures; run `python tools/datasets/make_shapes.py`, or name a folder')
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    net = SeTformer(args.arch).eval()
    net.init_weights()
    stages = features(net, torch.stack([read(file) for file in files]))
    spread = [torch.stack([keys.mean(2).norm(dim=-1).mean() for keys, _ in blocks]).mean() for blocks in stages]
    print(f'{args.arch}, {len(files)} pictures; length of the mean unit key by stage (1: all tokens alike): '
          f'{" ".join(f"{value:.2f}" for value in spread)}\n')
    print('| similarity | sigma | eps | row entropy, stages 1 to 4 | largest | row error after 3, 5, 10 iterations |\n'
          '|---|---|---|---|---|---|')
    for kind, sigma, eps in SETTINGS:
        similarity = Similarity(kind, sigma or 1., eps)
        entropies = [torch.stack([row_entropy(plan(*block, similarity, 10)).mean() for block in blocks]) for blocks in stages]
        errors = []
        for iterations in (3, 5, 10):
            masses = [plan(keys, y, similarity, iterations).sum(-1) * keys.shape[2] for blocks in stages for keys, y in blocks]
            errors.append(max((mass - 1).abs().max().item() for mass in masses))
        print(f'| {kind} | {sigma or ""} | {eps} | {" ".join(f"{e.mean():.3f}" for e in entropies)} | '
              f'{max(e.max().item() for e in entropies):.3f} | {", ".join(f"{100 * error:.0f} %" for error in errors)} |',
              flush=True)


if __name__ == '__main__':
    main()
