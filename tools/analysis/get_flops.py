"""Parameters and multiply-accumulates of a network, in total and by part: python tools/analysis/get_flops.py CONFIG

No data set and no weights are needed, and nothing is computed. A multiply-accumulate counts once. What counts in which column
is said in hybrid_mm/analysis/complexity.py. The image has the size at which papers give costs: 800 1280 for detectors, 512 2048
for segmentors, and for classifiers what the config's test pipeline cuts, or 224 224.
"""
import argparse
import json
import sys
from pathlib import Path
from typing import Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

# before torch starts its threads, and before anything imports torchvision
flush_denormals()
mend_torchvision()

from hybrid_mm.analysis.complexity import Complexity, complexity  # noqa: E402
from hybrid_mm.engine import SetupError  # noqa: E402
from hybrid_mm.engine.arguments import add_config  # noqa: E402
from hybrid_mm.engine.launch import one_sentence, read_config  # noqa: E402


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    with one_sentence():
        get_flops(args)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config(parser)
    parser.add_argument('--shape', nargs='+', type=int, metavar='PIXELS',
                        help='height and width of the image, or one number for both')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the numbers to a file, too')
    return parser.parse_args(argv)


def get_flops(args: argparse.Namespace) -> None:
    """Check, count, print, write.

    Raises:
        ValueError, OSError: see `hybrid_mm.engine.launch.one_sentence`; the message names the value and what is allowed.
    """
    if args.json is not None and (args.json.is_dir() or not args.json.parent.is_dir()):
        raise SetupError(f'--json {args.json} cannot be written; give a file in a folder that exists')
    shape = args.shape * 2 if args.shape is not None and len(args.shape) == 1 else args.shape
    result = complexity(read_config(args), shape)
    print(report(Path(args.config).name, result))
    if args.json is not None:
        args.json.write_text(json.dumps(dict(config=Path(args.config).name, **result.as_dict()), indent=2) + '\n')


def report(name: str, result: Complexity) -> str:
    """What is printed."""
    height, width = result.shape
    operators = ', '.join(f'{kind} {macs / 1e9:.3f}' for kind, macs in sorted(result.total.macs.items(), key=lambda i: -i[1]))
    return '\n'.join([
        f'{name} at {height}x{width} pixels, one image', '', result.table(), '', f'G MACs by operator: {operators}',
        f'counted as zero: {", ".join(result.uncounted) or "nothing"}'
    ])


if __name__ == '__main__':
    main()
