"""Train a network that a search has found, from random weights. It takes the options of tools/train.py, too."""
import argparse
from pathlib import Path

from hybrid_mm.errors import SetupError

from . import train

PASSES_ON = True


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', help='folder of the search')
    parser.add_argument('--rank', type=int, default=1, help='1 trains the best network, 2 the second best (default: %(default)s)')
    return parser


def run(args: argparse.Namespace) -> None:
    config = Path(args.folder) / f'found_{args.rank}.py'
    if not config.is_file():
        found = sorted(int(path.stem[6:]) for path in config.parent.glob('found_*.py'))
        raise SetupError(f'{config} does not exist; ' + (
            f'choose --rank from {found[0]} to {found[-1]}' if found else
            f'search first: python tools/search/search.py CONFIG --work-dir {args.folder}'))
    if not any(option.startswith('--work-dir') for option in args.rest):
        args.rest += ['--work-dir', str(Path(args.folder) / config.stem)]
    train.run(train.parser().parse_args([str(config), *args.rest]))
