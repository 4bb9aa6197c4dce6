"""Draw effective receptive fields of backbones: how much each pixel moves the middle of the map of a stage.

What moves there is the sum of the positive channels. The heat maps go side by side into one picture, and numbers into a JSON file
of the same name. For 20, 50, 95 and 99 % of the gradient the table gives the smallest share of the pixels that holds as much, and
the side of the smallest square around the centre that does.
"""
import argparse
import json
from pathlib import Path
from typing import Iterator, List, Optional

from mmengine.config import Config
from torch import Tensor

from hybrid_mm.analysis.browse import spread
from hybrid_mm.analysis.effective_receptive_field import effective_receptive_field, random_images
from hybrid_mm.analysis.erf_report import Field, build_backbone, draw_fields, load_weights, prepare_picture, table
from hybrid_mm.errors import SetupError
from hybrid_mm.inference.inputs import Video, find_inputs
from hybrid_mm.networks import preprocessor_of
from hybrid_mm.output import whole_file
from hybrid_mm.progress import Progress

from .preflight import check_checkpoint
from .shared import (
    add_config,
    add_device,
    add_force,
    check_least,
    check_out_file,
    check_seed,
    count,
    find_device,
    parser_of,
    read_config,
)

_RANDOM = 'none'  # in the place of a checkpoint


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    add_config(parser, several=True)
    parser.add_argument('--checkpoints', nargs='+', metavar='FILE',
                        help=f'a file of weights for each config, or "{_RANDOM}" for random ones (default: all are random)')
    parser.add_argument('--stage', type=int, help='which stage, counted from 1 (default: the last that a backbone returns)')
    parser.add_argument('--images', type=Path, metavar='FOLDER',
                        help='pictures to average over, resized and cut to a square (default: normal noise)')
    parser.add_argument('--size', type=int, default=224, help='side of an image in pixels (default: %(default)s)')
    parser.add_argument('--number', type=int, default=8,
                        help='how many images to average over, evenly spread over the folder (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of random weights and images (default: %(default)s)')
    parser.add_argument('--out', type=Path, default=Path('erf.png'), help='file to write (default: %(default)s)')
    add_device(parser)
    add_force(parser, 'overwrite the files')
    return parser


def run(args: argparse.Namespace) -> None:
    check_out_file(args.out, ('.png', ), args.force)
    check_out_file(args.out.with_suffix('.json'), ('.json', ), args.force)
    check_least(args, size=32, number=1)
    check_seed(args.seed)
    if args.checkpoints is not None and len(args.checkpoints) != len(args.configs):
        raise SetupError(f'--checkpoints has {len(args.checkpoints)} files for {len(args.configs)} configs; give one for each, '
                         f'or "{_RANDOM}" in the place of one')
    device = find_device(args.device)
    checkpoints = [None if path == _RANDOM else path for path in args.checkpoints or [_RANDOM] * len(args.configs)]
    for path in checkpoints:
        check_checkpoint(path, '--checkpoints')
    files = _pictures(args)
    number = args.number if files is None else len(files)
    backbones = []
    for path, checkpoint in zip(args.configs, checkpoints):
        cfg = read_config(path, args.cfg_options)
        backbone, index, stage = build_backbone(cfg, args.stage, args.seed, device)
        if checkpoint is not None:
            load_weights(backbone, checkpoint)
        backbones.append((cfg, checkpoint, backbone, index, stage))

    fields = []
    with Progress('images', number * len(backbones)) as progress:
        for path, (cfg, checkpoint, backbone, index, stage) in zip(args.configs, backbones):
            images = progress.over(_images(args, cfg, files))
            found = effective_receptive_field(backbone, args.size, index, images=images, positive=True)
            fields.append(Field(Path(path).name, checkpoint and Path(checkpoint).name, type(backbone).__name__, stage, found))
    source = 'normal noise' if files is None else f'pictures of {args.images}'
    title = f'effective receptive field at {args.size}x{args.size} pixels, {number} images, {source}'
    draw_fields(args.out, fields, title)
    numbers = dict(size=args.size, number=number, images=source, seed=args.seed, backbones=[field.as_dict() for field in fields])
    with whole_file(args.out.with_suffix('.json')) as partial:
        partial.write_text(json.dumps(numbers, indent=2) + '\n')
    print(f'{title}\nshare of the pixels / side of the square around the centre\n\n{table(fields)}\n')
    if None in checkpoints:
        print('Random weights: the fields are those of networks at the start of a training.')
    print(f'{args.out}, {args.out.with_suffix(".json")}: {count(len(fields), "field")}')


def _pictures(args: argparse.Namespace) -> Optional[List[Path]]:
    if args.images is None:
        return None
    files = find_inputs(args.images)
    if isinstance(files, Video):
        raise SetupError(f'--images {args.images} is a video; give a folder of pictures')
    return [files[i] for i in spread(len(files), args.number)]


def _images(args: argparse.Namespace, cfg: Config, files: Optional[List[Path]]) -> Iterator[Tensor]:
    channels = cfg.model.backbone.get('in_channels', 3)
    if files is None:
        yield from random_images((args.size, args.size), args.number, channels, args.seed)
        return
    if channels != 3:
        raise SetupError(f'in_channels={channels} of {cfg.filename}: pictures have 3 channels; leave --images out')
    for file in files:
        yield prepare_picture(file, args.size, preprocessor_of(cfg))
