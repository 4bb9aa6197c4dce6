"""Train and evaluate networks on three sets of photographs, one after the other; the folder of the same name has the parts.

    python benchmarks/real_pictures.py --data FOLDER [--tasks camvid ...] [--networks parc_mbv2 ...] [--seeds auto]

docs/real_pictures.md says what the folder has to hold, and shows the results.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.real_pictures.command import main  # noqa: E402  the folder, not this file

if __name__ == '__main__':
    main()
