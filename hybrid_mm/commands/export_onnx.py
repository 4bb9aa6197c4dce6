"""Export the network of a config to an ONNX file, and check that onnxruntime computes the same as torch."""
import argparse
import json
from pathlib import Path
from typing import Any, Dict

from hybrid_mm.analysis.complexity import image_shape
from hybrid_mm.deploy.networks import NO_BOXES, PARTS, build_network
from hybrid_mm.deploy.onnx_file import OPSETS, SMALLEST, TOLERANCE, check_libraries, write_onnx
from hybrid_mm.networks import preprocessor_of

from .preflight import check_checkpoint
from .shared import add_config, add_force, add_shape, both_sides, check_out_file, read_config


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=f'{__doc__} If an output differs by more than {TOLERANCE:.0e} of its largest value, no file is left. '
        'The exported network takes an image that is normalised as the data preprocessor of the config does it. A detector '
        f'is exported without its boxes: {NO_BOXES}.')
    add_config(parser)
    parser.add_argument('checkpoint', nargs='?', help='file with the weights of the whole model; without it they are random')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE.onnx', help='the file to write')
    parser.add_argument('--part', choices=PARTS,
                        help='the exported network ends with the maps of the backbone, with the maps of the neck, or with the '
                        'logits of a classifier or segmentor; by default with the last of these that the config has')
    add_shape(parser, help='height and width of the image, or one number for both; by default the size for which papers state '
              'costs, see get_flops.py')
    parser.add_argument('--dynamic', action='store_true',
                        help=f'the file takes any number of images of any size from {SMALLEST} pixels a side on, instead of '
                        'one image of --shape')
    parser.add_argument('--opset', type=int, default=OPSETS[0],
                        help=f"version of ONNX's operators, {OPSETS[0]} to {OPSETS[-1]} (default: %(default)s)")
    add_force(parser, 'overwrite the file')
    return parser


def run(args: argparse.Namespace) -> None:
    check_libraries()
    check_out_file(args.out, ('.onnx', ), args.force)
    check_checkpoint(args.checkpoint, 'the checkpoint')
    cfg = read_config(args.config, args.cfg_options)
    shape = image_shape(cfg, both_sides(args.shape))
    network = build_network(cfg, args.part, args.checkpoint)
    print(f'exporting {network.describe()} of {Path(args.config).name}, which can take minutes', flush=True)
    if args.checkpoint is None:
        print('no checkpoint is given: the weights are random', flush=True)
    output_name = 'logits' if network.part == 'logits' else 'map'
    deviation = write_onnx(network, shape, args.out, args.dynamic, args.opset, output_name, _preprocessing(cfg))
    size = f'any batch and size from {SMALLEST}x{SMALLEST}' if args.dynamic else f'{shape[2]}x{shape[3]}, one image'
    print(f'{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, opset {args.opset}, {size}\n'
          f'differs from torch by at most {deviation:.1e} of the largest value of an output')
    if cfg.default_scope == 'mmdet':
        print(f'The boxes are not in it: {NO_BOXES}.')


def _preprocessing(cfg: Any) -> Dict[str, str]:
    """What has to be done to a picture, 0 to 255 in BGR, before it goes in."""
    settings = preprocessor_of(cfg)
    keys = ('mean', 'std', 'bgr_to_rgb', 'to_rgb')
    return dict(data_preprocessor=json.dumps({key: settings[key] for key in keys if settings.get(key) is not None}))
