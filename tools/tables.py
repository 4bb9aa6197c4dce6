"""The tables of models in README.md and docs/models.md: python tools/tables.py [--check | --measure [MODEL ...]]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the clone, without an installation
from hybrid_mm.commands import main  # noqa: E402

if __name__ == '__main__':
    main('tables')
