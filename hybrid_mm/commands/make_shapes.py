"""Make a data set of shapes in the layouts of COCO and ADE20K."""
import argparse

from hybrid_mm.data.drawing import CLASSES
from hybrid_mm.data.shapes import make_shapes


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--out', default='data/shapes', help='folder to make')
    parser.add_argument('--train', type=int, default=400, help='pictures for training')
    parser.add_argument('--val', type=int, default=100, help='pictures for validation')
    parser.add_argument('--size', type=int, nargs=2, default=(192, 256), metavar=('H', 'W'), help='height and width')
    parser.add_argument('--seed', type=int, default=0, help='seed of all random numbers')
    return parser


def run(args: argparse.Namespace) -> None:
    try:
        made = make_shapes(**vars(args))
    except (ValueError, OSError, MemoryError) as error:
        parser().error(str(error))
    verb = 'made in' if made else 'already in'
    height, width = args.size
    print(f'{args.train} + {args.val} pictures of {height}x{width} with {len(CLASSES)} classes {verb} {args.out}')
