"""benchmarks/gpu: its parts run small on a CPU, with what a machine with a GPU has: no compiled operators, no MMDetection."""
import json
import os
import re
import subprocess
import sys

import pytest

from benchmarks.speed import command

# of the interpreters that the script starts: mmcv-lite, as far as the installed libraries can show it
WITHOUT = '''
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
for name in ('mmcv._ext', 'mmdet', 'pycocotools'):
    sys.modules[name] = None
loader = SourceFileLoader('mmcv.ops', {!r})
module = module_from_spec(spec_from_loader('mmcv.ops', loader))
loader.exec_module(module)
sys.modules['mmcv.ops'] = module
'''


@pytest.fixture
def run(root, tmp_path):
    """Run the script; returns status and output."""
    (tmp_path / 'sitecustomize.py').write_text(WITHOUT.format(str(root / 'benchmarks' / 'gpu' / 'mmcv_ops.py')))

    def call(**environ):
        environ = {**os.environ, **dict(OUT=str(tmp_path / 'out'), PYTHON=sys.executable, PYTHONPATH=str(tmp_path), NO_WHEELS='1',
                                        OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES=''), **environ}
        done = subprocess.run(['bash', str(root / 'benchmarks' / 'gpu' / 'run.sh')], capture_output=True, text=True, check=False,
                              env=environ)
        return done.returncode, done.stdout + done.stderr

    return call


def test_all_parts_run_small_without_a_gpu(run, tmp_path):
    status, out = run()
    assert status == 0, out
    assert re.findall(r'== (\w+): done after', out) == ['correctness', 'speed', 'real'], out
    assert 'Swin-T and ResNet-50 are those of MMPreTrain' in out
    checks = json.loads((tmp_path / 'out' / 'correctness.json').read_text())['checks']
    assert {check['group'] for check in checks} == {'layers', 'parc', 'kernels', 'backbones', 'training', 'ddp', 'compile'}
    assert all(0 <= check['error'] <= check['allowed'] for check in checks)
    speed, = json.loads((tmp_path / 'out' / 'speed.json').read_text())
    assert speed['networks']['swin_t']['type'] == 'mmpretrain.SwinTransformer' and len(speed['networks']) == 2
    recipe, = json.loads((tmp_path / 'out' / 'real.json').read_text())
    assert recipe['steps'] == 20000 and recipe['hours'] == pytest.approx(recipe['seconds_a_step'] * 20000 / 3600)
    assert (tmp_path / 'out' / 'log.txt').read_text()


def test_parts_of_a_gpu_run_one_after_the_other_and_one_that_fails_is_reported(run, tmp_path):
    """With a GPU that is none, and a Python that only writes what it was asked for."""
    for name, code in (('nvidia-smi', ''), ('python', f'''
            [ "$1" != -c ] || {{ echo cuda; exit; }}
            echo "$*" >>{tmp_path}/calls
            case "$*" in *real.py*) echo "no luck today"; exit 3 ;; esac''')):
        (tmp_path / name).write_text(f'#!/bin/sh\n{code}\n')
        (tmp_path / name).chmod(0o755)
    status, out = run(PATH=f'{tmp_path}:{os.environ["PATH"]}', PYTHON=str(tmp_path / 'python'))
    assert status == 1 and re.findall(r'== (\w+), \d+ s at most', out) == ['correctness', 'speed', 'compiled', 'real', 'tests']
    assert 'no luck today\n== real: ended with status 3; see above' in out and '; not whole: real; results in' in out
    seconds = [int(number) for number in re.findall(r'== \w+, (\d+) s at most', out)]
    assert sum(seconds[:-1]) < 9 * 60
    calls = (tmp_path / 'calls').read_text().splitlines()
    # the options are those of the programs: one that is not known would end a part at once
    for call in calls:
        if call.startswith('benchmarks/speed.py'):
            command.parser().parse_args(call.split()[1:])
    assert sum('--rounds 1 ' in call for call in calls) == 9 and sum('--rounds 9 ' in call for call in calls) == 2


def test_no_part_begins_without_time(run, tmp_path):
    status, out = run(LIMIT='5')
    assert status == 1 and out.count(': no time was left') == 3 and 'not whole: correctness speed real' in out
    assert not list((tmp_path / 'out').iterdir())


def test_missing_libraries_are_named(run, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text('import sys\nsys.modules["mmengine"] = None\n')
    status, out = run()
    assert status == 1 and 'Error: torch, mmengine or mmcv is not there, see above; run benchmarks/gpu/wheels.sh' in out
