"""What `tools/deploy/export_onnx.py` does: parse, check, build, export, compare."""
import argparse
import json
from pathlib import Path
from typing import Any, Dict, Optional, Sequence

from hybrid_mm.analysis.complexity import image_shape
from hybrid_mm.engine.arguments import add_config
from hybrid_mm.engine.launch import one_sentence, read_config
from hybrid_mm.engine.output import check_out_file
from hybrid_mm.engine.preflight import check_checkpoint

from .networks import NO_BOXES, PARTS, build_network
from .onnx_file import OPSETS, SMALLEST, TOLERANCE, check_libraries, write_onnx


def export_onnx(argv: Optional[Sequence[str]] = None) -> None:
    """`tools/deploy/export_onnx.py`.

    Args:
        argv: arguments of the command line, by default those of this process.

    Raises:
        SystemExit: a fault that the user can mend, as one sentence.
    """
    args = parse_args(argv)
    with one_sentence():
        run(args)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write the network of a config as an ONNX file, and compare it in onnxruntime with torch: the largest '
        f'difference may be {TOLERANCE:.0e} of the largest value of an output. Where it is more, there is no file. The image '
        f'goes in as the data preprocessor of the config gives it, normalised. Boxes of a detector stay out: {NO_BOXES}.')
    add_config(parser)
    parser.add_argument('checkpoint', nargs='?', help='file of the weights of the whole model; without it they are random')
    parser.add_argument('--out', type=Path, required=True, metavar='FILE.onnx', help='the file to write')
    parser.add_argument('--part', choices=PARTS,
                        help='up to where: the maps of the backbone, those of the neck behind it, or the logits of a '
                        'classifier or segmentor; by default the last that the config has')
    parser.add_argument('--shape', nargs='+', type=int, metavar='PIXELS',
                        help='height and width of the image, or one number for both; by default as papers give costs, see '
                        'get_flops.py')
    parser.add_argument('--dynamic', action='store_true',
                        help=f'any number of images of any size from {SMALLEST} pixels a side, instead of one of --shape')
    parser.add_argument('--opset', type=int, default=OPSETS[0],
                        help=f"version of ONNX's operators, {OPSETS[0]} to {OPSETS[-1]} (default: %(default)s)")
    parser.add_argument('--force', action='store_true', help='overwrite the file')
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Check, build, export, print.

    Raises:
        ValueError, OSError: see `hybrid_mm.engine.launch.one_sentence`; the message names the value and what is allowed.
    """
    check_libraries()
    check_out_file(args.out, ('.onnx', ), args.force)
    check_checkpoint(args.checkpoint, 'the checkpoint')
    cfg = read_config(args)
    shape = image_shape(cfg, args.shape * 2 if args.shape is not None and len(args.shape) == 1 else args.shape)
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
    settings = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    keys = ('mean', 'std', 'bgr_to_rgb', 'to_rgb')
    return dict(data_preprocessor=json.dumps({key: settings[key] for key in keys if settings.get(key) is not None}))
