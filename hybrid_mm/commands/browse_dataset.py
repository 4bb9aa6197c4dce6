"""Write pictures of a data set as the network gets them.

They are augmented, but not yet normalised. Boxes and masks, the label map or the class are drawn on them. Mixup and CutMix, which
mix whole batches, are not seen.
"""
import argparse
from pathlib import Path

from hybrid_mm.analysis.browse import browse
from hybrid_mm.errors import SetupError
from hybrid_mm.inference.outputs import write_image
from hybrid_mm.progress import Progress

from .preflight import check_data
from .shared import add_config, add_force, check_least, check_out_folder, check_seed, parser_of, read_config


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    add_config(parser, data=True)
    parser.add_argument('--split', choices=['train', 'val'], default='train', help='data to show (default: %(default)s)')
    parser.add_argument('--out', type=Path, help='folder to write to (default: ./work_dirs/<name of the config>/browse_<split>)')
    parser.add_argument('--number', type=int, default=20,
                        help='how many pictures to write, evenly spread over the data (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the augmentation (default: %(default)s)')
    add_force(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    check_least(args, number=1)
    check_seed(args.seed)
    cfg = read_config(args.config, args.cfg_options, data_root=args.data_root)
    out = args.out or Path(cfg.work_dir) / f'browse_{args.split}'
    check_out_folder(out, args.force)
    if cfg.get(f'{args.split}_dataloader') is None:
        raise SetupError(f'the config has no {args.split}_dataloader; choose the other --split, or another config')
    check_data(cfg, (args.split, ), keep=False)
    with Progress('pictures', args.number) as progress:
        for picture in progress.over(browse(cfg, args.split, args.number, args.seed)):
            out.mkdir(parents=True, exist_ok=True)
            write_image(out / f'{picture.number:06d}{"_" if picture.name else ""}{picture.name}.png', picture.drawn)
    fewer = f', all that the {args.split} data have' if progress.done < args.number else ''
    print(f'{out}: {progress.done} pictures{fewer}')
