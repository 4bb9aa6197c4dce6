"""What tests share: small data, the tools in processes of their own, and what has to be there before OpenMMLab is imported."""
import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS_TESTS = ROOT / 'tests' / 'tools'
FAULTS = {  # folders and files whose tests inject faults
    'faults', 'engine', 'data', 'test_bad_input.py', 'test_check_dataset.py', 'test_config_names.py', 'test_failures.py',
    'test_integrity.py', 'test_names.py', 'test_numerics.py', 'test_small_batches.py'}
# the clone itself, and this folder for the plain definitions in `reference/`
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from hybrid_mm.compat import flush_denormals, mend_torchvision  # noqa: E402
from hybrid_mm.data.shapes import make_shapes  # noqa: E402

flush_denormals()
mend_torchvision()


def pytest_addoption(parser) -> None:
    parser.addoption('--exhaustive', action='store_true', help='run the long tests of faults as well, see docs/reliability.md')


def pytest_configure(config) -> None:
    config.addinivalue_line('markers', 'exhaustive: injects a fault many times; runs with --exhaustive alone')
    config.addinivalue_line('markers', 'faults: injects a fault; put on by FAULTS, see docs/reliability.md')


def pytest_collection_modifyitems(config, items) -> None:
    """Tests of the tools first: one process takes these, with what they share, and ends on the many short ones, as others do."""
    items.sort(key=lambda item: item.path.parent.name not in ('tools', 'faults'))
    for item in items:
        if {item.path.parent.name, item.path.name} & FAULTS:
            item.add_marker('faults')
    if not config.getoption('--exhaustive'):
        for item in items:
            if item.get_closest_marker('exhaustive'):
                item.add_marker(pytest.mark.skip(reason='long; give --exhaustive'))


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


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> Path:
    """Eight and four pictures of shapes, 64x64 pixels, in the layouts of COCO and ADE20K."""
    folder = tmp_path_factory.mktemp('data') / 'shapes'
    make_shapes(folder, train=8, val=4, size=(64, 64))
    return folder


@pytest.fixture(scope='session')
def pictures(tmp_path_factory) -> Path:
    """Twenty pictures of noise, 32x32 pixels, bright ones and dark ones in a folder each."""
    folder = tmp_path_factory.mktemp('pictures')
    rng = np.random.default_rng(0)
    for name, brightness in (('bright', 160), ('dark', 80)):
        (folder / name).mkdir()
        for i in range(10):
            image = rng.normal(brightness, 30, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / name / f'{i}.png'), image)
    return folder


@pytest.fixture(scope='session')
def tiny():
    """Path of a config in `tools/tiny/`."""
    return lambda name: str(TOOLS_TESTS / 'tiny' / f'{name}.py')


@pytest.fixture
def in_process(monkeypatch, shapes, pictures, tmp_path) -> Path:
    """Let a test call commands itself: with the data and the probes of the tiny configs, no launcher, in an empty folder."""
    monkeypatch.syspath_prepend(str(TOOLS_TESTS))
    for name in ('LOCAL_RANK', 'WORLD_SIZE', 'SLURM_LOCALID'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('SHAPES', str(shapes))
    monkeypatch.setenv('PICTURES', str(pictures))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope='session')
def run_tool(root, shapes, pictures, run_in_forks, tmp_path_factory):
    """Run a tool as a user does: its name or path, its arguments, further environment variables.

    A tool in Python runs in a fork of a process that has loaded OpenMMLab; ``fresh`` asks for an interpreter of its own.
    """
    logs = tmp_path_factory.mktemp('logs')

    def run(tool, *args, check=True, cwd=None, fresh=False, **variables):
        path = root / 'tools' / tool
        variables = {**dict(SHAPES=str(shapes), PICTURES=str(pictures), PYTHON=sys.executable, PYTHONPATH=str(TOOLS_TESTS),
                            OMP_NUM_THREADS='1', PORT=str(_free_port())), **variables}
        if path.suffix == '.sh' or fresh:
            command = ['bash' if path.suffix == '.sh' else sys.executable, str(path), *map(str, args)]
            environ = {name: value for name, value in os.environ.items() if name not in ('LOCAL_RANK', 'WORLD_SIZE')}
            result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env={**environ, **variables})
        else:
            out, err = logs / 'out', logs / 'err'
            err.unlink(missing_ok=True)
            command = ['python', str(path), *map(str, args)]
            status = run_in_forks([command], cwd or os.getcwd(), out, err, **variables)
            result = subprocess.CompletedProcess(command, status, out.read_text(), err.read_text().partition('\n')[2])
        assert not check or result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
        return result

    return run


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]
