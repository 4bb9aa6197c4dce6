"""Train what a search has found: python tools/search/retrain.py FOLDER [options of tools/train.py]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation
from hybrid_mm.commands import main  # noqa: E402

if __name__ == '__main__':
    main('retrain')
