"""Effective receptive field of ParC-ResNet50 against ResNet-50, both untrained.

    python benchmarks/parc_erf.py [--size 224] [--stage 3] [--images 16] [--seeds 3]

For each fraction of the gradient: the smallest share of the image's pixels that holds it, and the side of the smallest square
around the centre that does, averaged over networks of different random weights.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

flush_denormals()
mend_torchvision()

import torch  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402

from hybrid_mm.analysis import area, effective_receptive_field, square_side  # noqa: E402
from hybrid_mm.backbones import ParCResNet  # noqa: E402

FRACTIONS = (0.2, 0.5, 0.95, 0.99)


def field_of(insert_locations, args, seed):
    torch.manual_seed(seed)
    model = ParCResNet(50, insert_locations=insert_locations, out_indices=(args.stage - 1, ))
    model.init_weights()
    return effective_receptive_field(model, args.size, num_images=args.images, seed=seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--stage', type=int, default=3, choices=(1, 2, 3, 4), help='counted from 1, as the paper does')
    parser.add_argument('--images', type=int, default=16)
    parser.add_argument('--seeds', type=int, default=3, help='number of networks to average over')
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel('WARNING')  # not every initialised tensor
    print(f'stage {args.stage} at {args.size}x{args.size}, {args.seeds} networks, {args.images} images each')
    print(f'{"share of the gradient":24}' + ''.join(f'{fraction:>16.0%}' for fraction in FRACTIONS))
    for name, insert_locations in [('ResNet-50', ()), ('ParC-ResNet50', (3, 4, 3, 2))]:
        fields = [field_of(insert_locations, args, seed) for seed in range(args.seeds)]
        cells = []
        for fraction in FRACTIONS:
            areas = [area(field.gradient, fraction) for field in fields]
            sides = [square_side(field.gradient, fraction, field.centre) for field in fields]
            cells.append(f'{sum(areas) / len(areas):.2%} / {sum(sides) / len(sides):.0f} px')
        print(f'{name:24}' + ''.join(f'{cell:>16}' for cell in cells))


if __name__ == '__main__':
    main()
