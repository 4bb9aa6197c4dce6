"""What every test needs before the first import of torch's operators or of OpenMMLab."""
import json
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


@pytest.fixture(scope='session')
def run_in_forks():
    """Run commands ``python FILE ...`` in forks of one process for all tests, see `run_in_forks.py`: libraries load slowly.

    Takes lists of words, the folder to run in, files for stdout and stderr, and variables of the environment; returns the exit
    status of the last command that ran.
    """
    environ = {name: value for name, value in os.environ.items()
               if not name.startswith('PYTEST') and name not in ('PYTHONPATH', 'LOCAL_RANK', 'WORLD_SIZE')}
    server = subprocess.Popen([sys.executable, ROOT / 'tests' / 'run_in_forks.py'], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True, env=dict(environ, OMP_NUM_THREADS='1'))

    def run(commands, folder, out, err, **variables) -> int:
        task = dict(commands=commands, folder=str(folder), out=str(out), err=str(err), environ=variables)
        server.stdin.write(json.dumps(task) + '\n')
        server.stdin.flush()
        return int(server.stdout.readline())

    with server:
        yield run
