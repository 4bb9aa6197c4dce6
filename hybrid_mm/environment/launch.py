"""What `tools/check_env.py` does."""
import argparse
import shlex
from pathlib import Path
from typing import Optional, Sequence

from .cures import short_path
from .diagnosis import diagnose
from .facts import collect_facts
from .items import NAMES, NEEDS, expand


def main(argv: Optional[Sequence[str]] = None) -> int:
    """`tools/check_env.py`.

    Args:
        argv: arguments of the command line, by default those of this process.

    Returns:
        The exit status: 0 if nothing is wrong, otherwise 1.

    Raises:
        SystemExit: status 2, the arguments are wrong.
    """
    parser = argparse.ArgumentParser(
        description='Say whether this environment can run hybrid_mm, what is wrong, and the command that cures it. '
        'Exit status: 0 nothing is wrong, 1 something is, 2 the arguments are.')
    parser.add_argument('items', nargs='*', type=_item, metavar='ITEM',
                        help='check this and what it needs, such as mmdet for detection alone; one or more of '
                        f'{", ".join(NEEDS)} (default: all)')
    items = expand(parser.parse_args(argv).items or NEEDS)
    findings = diagnose(collect_facts(items))
    for finding in findings:
        print(f'{finding.status:6}{finding.text}')
        if finding.cure:
            print(f'      cure: {finding.cure}')
    wrong = [NAMES.get(finding.item, finding.item) for finding in findings if finding.status == 'wrong']
    print()
    if wrong:
        print(f'Wrong: {", ".join(wrong)}. Run the cures from top to bottom, then this again.')
        setup = Path(__file__).resolve().parents[2] / 'tools' / 'setup_env.sh'
        if setup.is_file():
            print(f'Or get the versions that the tests run on, in .venv: bash {shlex.quote(short_path(setup))}')
    else:
        print('Nothing is wrong: this environment can run hybrid_mm.' if len(items) == len(NEEDS) else
              f'Nothing is wrong with {", ".join(items)}; the rest was not checked.')
    return int(bool(wrong))


def _item(text: str) -> str:
    if text not in NEEDS:
        raise argparse.ArgumentTypeError(f'{text!r} is not allowed; choose from {", ".join(NEEDS)}')
    return text
