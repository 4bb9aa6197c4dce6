"""Whether this environment can run hybrid_mm, and what cures it: python tools/check_env.py [ITEM ...]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the clone, without an installation
from hybrid_mm.commands import main  # noqa: E402

if __name__ == '__main__':
    main('check_env')
