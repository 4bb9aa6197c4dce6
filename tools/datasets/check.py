"""Look for faults in the data sets of a config: python tools/datasets/check.py CONFIG [--split train] [--fix FILE]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation
from hybrid_mm.commands import main  # noqa: E402

if __name__ == '__main__':
    main('check')
