"""Make a small data set of shapes in the layouts of COCO and ADE20K: python tools/datasets/make_shapes.py [--out data/shapes]"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the clone, without an installation
from hybrid_mm.commands import main  # noqa: E402

if __name__ == '__main__':
    main('make_shapes')
