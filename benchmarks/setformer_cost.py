"""Parameters and multiply-adds of SeTformer beside what is published, as a table.

    python benchmarks/setformer_cost.py

Multiply-adds are counted by torch's FlopCounterMode on one image without computing anything (meta tensors): convolutions and
linear layers; the transport: similarity, pooling and scattering, 3 n m C a block; Sinkhorn: its products of the kernel and a
vector. Softmax, norms, exponentials and the like count zero, as in the published tables.
"""
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from hybrid_mm.backbones import SeTformer  # noqa: E402

CLASSES = 1000
# millions of parameters and G multiply-adds of the paper, or derived from the differences that it states; as in the README
PUBLISHED = {'mini': (16.8, 2.8), 'tiny': (23., None), 'small': (None, None), 'base': (57.6, 10.4)}


def count(arch, references, size, **settings):
    with torch.device('meta'):
        net = SeTformer(arch, num_references=references, out_indices=(3, ), **settings).eval()
        x = torch.empty(1, 3, *size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    total = counter.get_total_flops() / 2
    transport = sinkhorn = 0
    for i, (blocks, channels) in enumerate(zip(net.stages, net.settings['channels'])):
        n = -(-size[0] // 2**(i + 2)) * -(-size[1] // 2**(i + 2))
        for block in blocks:
            m = block.attn.num_references
            transport += 3 * n * m * channels
            # two products an iteration, and the two that normalise the weights along plan and prior
            sinkhorn += (2 * block.attn.iterations + 2) * n * m * block.attn.num_heads
    return sum(p.numel() for p in net.parameters()), total - transport - sinkhorn, transport, sinkhorn


def beside(value, published):
    return '' if published is None else f'{published} ({100 * (value / published - 1):+.1f} %)'


def main():
    logging.disable(logging.WARNING)
    print('| arch | references | parameters with classifier, M | published | MACs at 224, G: conv and linear + transport | '
          'published | Sinkhorn | MACs at 800x1280 | Sinkhorn |\n|---|---|---|---|---|---|---|---|---|')
    for arch, (published, published_macs) in PUBLISHED.items():
        for references in (49, (196, 196, 196, 49)):
            parameters, layers, transport, sinkhorn = count(arch, references, (224, 224))
            width = SeTformer.arch_settings[arch]['channels'][-1]
            parameters += (width + 1) * CLASSES
            layers += width * CLASSES
            _, large_layers, large_transport, large_sinkhorn = count(arch, references, (800, 1280))
            print(f'| {arch} | {references} | {parameters / 1e6:.2f} | {beside(parameters / 1e6, published)} | '
                  f'{layers / 1e9:.2f} + {transport / 1e9:.2f} = {(layers + transport) / 1e9:.2f} | '
                  f'{beside((layers + transport) / 1e9, published_macs)} | {sinkhorn / 1e9:.2f} | '
                  f'{large_layers / 1e9:.1f} + {large_transport / 1e9:.1f} = {(large_layers + large_transport) / 1e9:.1f} | '
                  f'{large_sinkhorn / 1e9:.1f} |')


if __name__ == '__main__':
    main()
