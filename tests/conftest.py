"""What every test needs before the first import of torch's operators or of OpenMMLab."""
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# the clone itself, and this folder for the plain definitions in `reference/`
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402

flush_denormals()
mend_torchvision()


@pytest.fixture(scope='session')
def root() -> Path:
    """The root of the clone."""
    return ROOT


@pytest.fixture(scope='session')
def run_python():
    """Run a piece of code in a Python process of its own, which finds `hybrid_mm` in the clone."""

    def run(code: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, '-c', textwrap.dedent(code)],
                              capture_output=True, text=True, check=False, cwd='/',
                              env=dict(os.environ, PYTHONPATH=str(ROOT)))

    return run
