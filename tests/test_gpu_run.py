"""benchmarks/gpu: its parts run small on a CPU, with what a machine with a GPU has: no compiled operators, no MMDetection."""
import json
import os
import re
import subprocess
import sys

import pytest

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
        environ = dict(os.environ, OUT=str(tmp_path / 'out'), PYTHON=sys.executable, PYTHONPATH=str(tmp_path), NO_WHEELS='1',
                       OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='', **environ)
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


def test_no_part_begins_without_time(run, tmp_path):
    status, out = run(LIMIT='5')
    assert status == 1 and out.count(': no time was left') == 3 and 'not whole: correctness speed real' in out
    assert not list((tmp_path / 'out').iterdir())


def test_missing_libraries_are_named(run, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text('import sys\nsys.modules["mmengine"] = None\n')
    status, out = run()
    assert status == 1 and 'Error: torch, mmengine or mmcv is not there, see above; run benchmarks/gpu/wheels.sh' in out
