"""Draw the losses and metrics of trainings.

The logs of a resumed training are joined; what it did again replaces what it had done before.
"""
import argparse
from pathlib import Path

from hybrid_mm.analysis.logs import SUFFIXES, choose_keys, labels, plot_runs, read_run

from .shared import add_force, check_out_file, count, parser_of


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument('work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='work folder of a training')
    parser.add_argument('--keys', nargs='+',
                        help='what to draw, by its names in the logs, such as loss, lr, mIoU, bbox_mAP (default: the loss and '
                        'the usual metrics)')
    parser.add_argument('--out', type=Path, default=Path('curves.png'),
                        help=f'file to write, {", ".join(SUFFIXES)} (default: %(default)s)')
    add_force(parser, 'overwrite the file')
    return parser


def run(args: argparse.Namespace) -> None:
    check_out_file(args.out, SUFFIXES, args.force)
    runs = [read_run(path) for path in args.work_dirs]
    keys = choose_keys(runs, args.keys)
    plot_runs(args.out, runs, keys)
    for training, label in zip(runs, labels(runs)):
        ends = {key: f'{curve.values[-1]:.4g} at {curve.unit} {curve.steps[-1]}' for key, curve in training.curves.items()}
        parts = [f'{key} {ends[key]}' if key in ends else f'no {key}' for key in keys]
        print(f'{label}, {count(len(training.logs), "log")}: {"; ".join(parts)}')
    print(f'{args.out}: {", ".join(keys)} of {count(len(runs), "run")}')
