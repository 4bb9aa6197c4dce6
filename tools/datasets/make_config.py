"""Write a config for a folder of your own: python tools/datasets/make_config.py FOLDER [--out FILE] [--minutes N]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation
from hybrid_mm.commands import main  # noqa: E402

if __name__ == '__main__':
    main('make_config')
