"""Small data, and the tools in processes of their own."""
import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from hybrid_mm.data.shapes import make_shapes

HERE = Path(__file__).resolve().parent


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
    """Path of a config in `tiny/`."""
    return lambda name: str(HERE / 'tiny' / f'{name}.py')


@pytest.fixture(scope='session')
def run_tool(root, shapes, pictures, run_in_forks, tmp_path_factory):
    """Run a tool as a user does: its name or path, its arguments, further environment variables.

    A tool in Python runs in a fork of a process that has loaded OpenMMLab; ``fresh`` asks for an interpreter of its own.
    """
    logs = tmp_path_factory.mktemp('logs')

    def run(tool, *args, check=True, cwd=None, fresh=False, **variables):
        path = root / 'tools' / tool
        variables = {**dict(SHAPES=str(shapes), PICTURES=str(pictures), PYTHON=sys.executable, PYTHONPATH=str(HERE),
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
