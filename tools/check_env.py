"""Whether this environment can run hybrid_mm, what is wrong, and what cures it: python tools/check_env.py [ITEM ...]

Prints a line an item: `ok`, `wrong`, or `note` for what runs with a limit; below it the command that cures it. The exit status
is 0 if nothing is wrong, otherwise 1. An ITEM, such as mmdet, checks that one alone, and what it needs. Works in any
environment, an empty one too; torch and OpenMMLab are imported in another process, so that nothing they do ends the check.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the clone, without an installation

from hybrid_mm.environment import main  # noqa: E402

if __name__ == '__main__':
    sys.exit(main())
