"""Check whether this environment can run hybrid_mm.

This prints a line for each item, which begins with `ok`, `wrong`, or `note` if the item works with a limit. The command that
cures a fault is on the next line. The exit status is 0 if nothing is wrong, 1 if something is, and 2 if the arguments are. The
check needs nothing but Python: it imports torch and OpenMMLab in another process, so that a crash there does not end it.
"""
import argparse
import shlex
from pathlib import Path

from hybrid_mm.environment.cures import short_path
from hybrid_mm.environment.diagnosis import diagnose
from hybrid_mm.environment.facts import collect_facts
from hybrid_mm.environment.items import NAMES, NEEDS, expand


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('items', nargs='*', type=_item, metavar='ITEM',
                        help=f'check this and what it needs, one or more of {", ".join(NEEDS)}; mmdet, for example, checks what '
                        'detection needs (default: all)')
    return parser


def run(args: argparse.Namespace) -> int:
    items = expand(args.items or NEEDS)
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
