"""Count the parameters and the multiply-accumulates of a network, in total and by part.

No data set and no weights are needed, and nothing is computed. A multiply-accumulate counts once. The file
hybrid_mm/analysis/complexity.py says what counts in which column. The image has the size at which papers give costs: 800 1280 for
detectors, 512 2048 for segmentors, and for classifiers what the test pipeline of the config cuts, or else 224 224.
"""
import argparse
import json
from pathlib import Path

from hybrid_mm.analysis.complexity import Complexity, complexity
from hybrid_mm.errors import SetupError

from .shared import add_config, add_shape, both_sides, check_writable, parser_of, read_config


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    add_config(parser)
    add_shape(parser)
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the numbers to this file')
    return parser


def run(args: argparse.Namespace) -> None:
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise SetupError(f'--json {args.json} cannot be written; give a file in a folder that exists')
    if args.json is not None:
        check_writable(args.json.parent, f'--json {args.json}')
    result = complexity(read_config(args.config, args.cfg_options), both_sides(args.shape))
    print(report(Path(args.config).name, result))
    if args.json is not None:
        args.json.write_text(json.dumps(dict(config=Path(args.config).name, **result.as_dict()), indent=2) + '\n')


def report(name: str, result: Complexity) -> str:
    """What is printed."""
    height, width = result.shape
    operators = ', '.join(f'{kind} {macs / 1e9:.3f}' for kind, macs in sorted(result.total.macs.items(), key=lambda i: -i[1]))
    return (f'{name} at {height}x{width} pixels, one image\n\n{result.table()}\n\nG MACs by operator: {operators}\n'
            f'counted as zero: {", ".join(result.uncounted) or "nothing"}')

