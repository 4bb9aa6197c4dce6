"""Evaluate a detector, a segmentor or a classifier."""
import argparse
from pathlib import Path

from hybrid_mm.errors import SetupError

from .preflight import check_checkpoint, check_data, check_launcher
from .runner import runner_of
from .settings import set_up_testing
from .shared import add_config, check_out_folder, read_config
from .train import add_compile, add_launcher


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config(parser, data=True)
    parser.add_argument('checkpoint', help='file of the checkpoint')
    parser.add_argument('--work-dir', help='folder for logs and metrics; by default ./work_dirs/<name of the config>')
    parser.add_argument('--out',
                        help='where to keep the predictions: a .pkl file for detection and classification, a folder of '
                        'label maps (png) for segmentation')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='folder for pictures with the predictions; for detection it lies in '
                        '<work folder>/<time of the start>')
    parser.add_argument('--show-at-most', type=int, metavar='N',
                        help='show or draw N pictures, evenly spread over all; by default all of them')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds to show each picture')
    parser.add_argument('--tta', action='store_true',
                        help='test-time augmentation: tta_model and tta_pipeline of the config, or flips')
    add_compile(parser)
    add_launcher(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    check_launcher(args.launcher)
    cfg = read_config(args.config, args.cfg_options, args.work_dir, args.launcher, args.data_root)
    set_up_testing(cfg, args)
    check_checkpoint(args.checkpoint, 'checkpoint')
    check_outputs(args, cfg.default_scope)
    check_data(cfg, ('test', ))
    with runner_of(cfg, args.local_rank, 'test') as runner:
        runner.test()


def check_outputs(args: argparse.Namespace, scope: str) -> None:
    """See that what a test leaves can be written, before hours of it: ``--out`` and ``--show-dir``.

    Raises:
        SetupError: a place cannot be written, or is a file where a folder has to be; or ``--wait-time`` is negative.
    """
    if args.wait_time < 0:
        raise SetupError(f'--wait-time {args.wait_time} is not allowed; choose 0 or more')
    if args.show_at_most is not None and args.show_at_most < 1:
        raise SetupError(f'--show-at-most {args.show_at_most} is not allowed; choose 1 or more')
    if args.show_at_most is not None and not (args.show or args.show_dir):
        raise SetupError('--show-at-most is for --show-dir FOLDER or --show, which are missing; add one, or leave this out')
    if args.out is not None and scope != 'mmseg' and Path(args.out).is_dir():
        raise SetupError(f'--out {args.out} is a folder; give a file')
    if args.out is not None:
        check_out_folder(Path(args.out) if scope == 'mmseg' else Path(args.out).parent, force=True)
    if args.show_dir is not None and scope != 'mmdet':  # whose folder is a new one in the work folder
        check_out_folder(Path(args.show_dir), force=True, option='--show-dir ')
