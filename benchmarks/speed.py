"""Measure time, memory and multiply-adds of our backbones beside those that people would take instead; the folder of the same
name has the parts.

    python benchmarks/speed.py [--networks transcnn_b ...] [--sizes 768x1280 ...] [--modes training] [--dtypes fp32] [--compile]

docs/speed.md says what is measured, and shows the results.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.speed.command import main  # noqa: E402  the folder, not this file

if __name__ == '__main__':
    main()
