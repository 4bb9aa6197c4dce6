"""Command lines of `tools/train.py` and `tools/test.py`, the options of MMDetection's and MMSegmentation's tools; and what other
tools that read a config share."""
import argparse
from typing import Optional, Sequence

from mmengine.config import DictAction


def parse_train_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Options of `tools/train.py`, from `sys.argv` by default."""
    parser = argparse.ArgumentParser(description='Train a detector, a segmentor or a classifier.')
    parser.add_argument('config', help='file of the config; its default_scope says which library trains')
    parser.add_argument('--work-dir',
                        help='folder for logs and checkpoints; by default ./work_dirs/<name of the config>')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision; needs a GPU')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate with the total batch, as auto_scale_lr of the config says')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from a checkpoint; "auto", or nothing, stands for the last one in the work folder, '
                        'if there is one')
    _add_shared(parser)
    return parser.parse_args(argv)


def parse_test_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Options of `tools/test.py`, from `sys.argv` by default."""
    parser = argparse.ArgumentParser(description='Evaluate a detector, a segmentor or a classifier.')
    parser.add_argument('config', help='file of the config')
    parser.add_argument('checkpoint', help='file of the checkpoint')
    parser.add_argument('--work-dir', help='folder for logs and metrics; by default ./work_dirs/<name of the config>')
    parser.add_argument('--out',
                        help='where to keep the predictions: a .pkl file for detection and classification, a folder of '
                        'label maps (png) for segmentation')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument('--show-dir', help='folder for pictures with the predictions; for detection it lies in '
                        '<work folder>/<time of the start>')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds to show each picture')
    parser.add_argument('--tta', action='store_true',
                        help='test-time augmentation: tta_model and tta_pipeline of the config, or flips')
    _add_shared(parser)
    return parser.parse_args(argv)


def add_config(parser: argparse.ArgumentParser, of: str = 'a detector, segmentor or classifier') -> None:
    """The config and its options, for a tool that runs in one process and trains nothing; see `launch.read_config`."""
    parser.add_argument('config', help=f'file of the config of {of}')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings that replace those of the config, as in tools/train.py')
    parser.set_defaults(launcher='none', work_dir=None)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='settings that replace those of the config, such as train_dataloader.batch_size=4; lists '
                        'as "key=[a,b]" or key=a,b, nested ones as "key=[(a,b),(c,d)]", quoted and without blanks')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='what started the processes; tools/dist_train.sh and the like set it')
    # from old launchers of torch; the present one sets the variable LOCAL_RANK
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
