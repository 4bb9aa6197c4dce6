"""`tools/check_env.py` in environments that are broken for real, and its sentences for those that cannot be made here."""
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from hybrid_mm import commands
from hybrid_mm.commands import check_env
from hybrid_mm.environment import FORKS, MINIMA, NEEDS, PINS, collect_facts, diagnose, expand

MMCV = r'MMCV_WITH_OPS=1 \S+ -m pip install --no-build-isolation '
# The tests run on upstream's libraries and on the maintained forks, in an environment each.
FORKS_ARE_HERE = any(True for _ in distributions(name='onedl-mmengine'))
PINNED = dict(mmcv='onedl-mmcv==2.3.6', mmseg='onedl-mmsegmentation==1.4.2') if FORKS_ARE_HERE else \
    dict(mmcv='mmcv==2.1.0', mmseg='mmsegmentation==1.2.2')


@pytest.fixture
def site(tmp_path):
    """A folder that comes before the installed packages."""
    return tmp_path


@pytest.fixture
def check(site, monkeypatch, capsys):
    """Run the command on some items, with `site` before the installed packages."""

    def run(*items, cwd='/', **variables):
        monkeypatch.chdir(cwd)
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        for name, value in dict(PYTHONPATH=str(site), OMP_NUM_THREADS='1', **variables).items():
            monkeypatch.setenv(name, value)
        status = check_env.run(check_env.parser().parse_args(items))
        return subprocess.CompletedProcess(items, status, *capsys.readouterr())

    return run


@pytest.fixture(scope='module')
def facts(tmp_path_factory):
    """Facts of the environment of the tests, collected once because importing all libraries takes long."""
    return collect(list(NEEDS), None, tmp_path_factory.mktemp('site'))


# Of the forks mmpretrain alone refuses an mmcv that is too new, which it asserts after it has imported much.
REFUSING, TOO_NEW = (['mmpretrain'], '2.4.0') if FORKS_ARE_HERE else (['mmdet', 'mmseg'], '2.2.0')


@pytest.fixture(scope='module')
def broken(facts, tmp_path_factory):
    """Facts of libraries that are broken on their own; in one process because importing torch takes long."""
    site = tmp_path_factory.mktemp('site')
    # as torchvision does: it fails until somebody has defined the operator
    code = 'import torch\ntorch.library.register_fake("torchvision::nms")(lambda *args: args[0])'
    shadow(site, 'torchvision', code, '0.20.1')
    # an mmcv without operators, which is tried behind the libraries that refuse its version
    link_mmcv(site, '_ext', 'version.py')
    (site / 'mmcv' / 'version.py').write_text(f"__all__ = ['__version__']\n__version__ = '{TOO_NEW}'\n")
    return try_again(facts, site, 'torchvision', *REFUSING, 'mmcv')


@pytest.fixture
def report(facts, monkeypatch, capsys):
    """What the tool prints about some items or all, where some facts are not those of the environment of the tests."""

    def run(*items, **others):
        changed = {**facts, **others}
        monkeypatch.setattr(check_env, 'collect_facts', lambda items: {item: changed[item] for item in items})
        status = check_env.run(check_env.parser().parse_args(items))
        return subprocess.CompletedProcess(items, status, *capsys.readouterr())

    return run


def collect(items, known, site):
    """Facts as the tool collects them with `site` before the installed packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir('/')
        patch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        patch.setenv('PYTHONPATH', str(site))
        patch.setenv('OMP_NUM_THREADS', '1')
        return collect_facts(items, known)


def try_again(facts, site, *items):
    """Facts of items with what is in `site`; those of the others are known."""
    found = collect(items, {item: facts[item] for item in NEEDS if item not in items}, site)
    return {item: found[item] for item in items}


def assert_wrong(done, item, fault, cure):
    """The check fails, on this item alone, and names fault and cure."""
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(rf'^wrong {fault}.*\n      cure: {cure}$', done.stdout, re.MULTILINE), done.stdout
    assert f'\nWrong: {item}. Run the cures from top to bottom' in done.stdout


def assert_fine(done, *lines):
    assert done.returncode == 0, done.stdout + done.stderr
    for line in lines:
        assert re.search(rf'^{line}', done.stdout, re.MULTILINE), done.stdout


def block(site, name):
    """Hide a module as if it was not installed."""
    with open(site / 'sitecustomize.py', 'a') as file:
        file.write(f'''
import sys
class Blocker_{name}:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split('.')[0] == {name!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Blocker_{name})
''')


def shadow(site, name, code, version):
    """A package that is found before the installed one."""
    (site / name).mkdir()
    (site / name / '__init__.py').write_text(code)
    (site / name / 'version.py').write_text(f"__version__ = '{version}'\n")


def install(site, distribution, version):
    """What pip writes about a distribution."""
    (site / f'{distribution}-{version}.dist-info').mkdir()
    text = f'Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n'
    (site / f'{distribution}-{version}.dist-info' / 'METADATA').write_text(text)


def link_mmcv(site, *leave_out):
    """The installed mmcv without some of its files."""
    (site / 'mmcv').mkdir()
    for path in Path(find_spec('mmcv').origin).parent.iterdir():
        if not path.name.startswith((*leave_out, '__pycache__')):
            (site / 'mmcv' / path.name).symlink_to(path)


def fake_torch(site, version='2.13.0', cuda=None, numpy_error=''):
    """A torch that says which build it is, and sees no GPU."""
    shadow(site, 'torch', f'''
from types import SimpleNamespace
from .version import __version__
version = SimpleNamespace(cuda={cuda!r}, hip=None)
cuda = SimpleNamespace(is_available=lambda: False)
library = SimpleNamespace(Library=lambda *args: SimpleNamespace(define=lambda schema: None))
def from_numpy(array):
    if {numpy_error!r}:
        raise RuntimeError({numpy_error!r})
    return SimpleNamespace(numpy=lambda: array)
''', version)


def fake_gpu(site):
    """A driver that lists a GPU; returns the environment variables that make it the only one."""
    (site / 'bin').mkdir()
    (site / 'bin' / 'nvidia-smi').write_text('#!/bin/sh\necho "GPU 0: NVIDIA H100 (UUID: GPU-1)"\n')
    (site / 'bin' / 'nvidia-smi').chmod(0o755)
    return dict(PATH=str(site / 'bin'))


# ------------------------------------------------------------------------------------------------------- whole environments


def test_the_environment_of_the_tests_is_fine_and_its_versions_are_named(report):
    import mmengine
    import numpy
    assert_fine(report(), 'ok    Python 3', 'ok    setuptools .*, with pkg_resources',
                f'ok    torch {re.escape(torch.__version__)}', f'ok    numpy {numpy.__version__}', 'ok    opencv ',
                r'(ok|note)  +torchvision \d', f'(ok|note)  +mmengine {mmengine.__version__}',
                r'ok    mmcv 2.*, with its operators', r'ok    pycocotools \d', r'ok    mmdet 3', r'ok    mmseg 1',
                r'ok    mmpretrain 1', r'ok    hybrid_mm \d', 'Nothing is wrong: this environment can run hybrid_mm')


def test_an_mmengine_that_runs_the_code_in_a_checkpoint_is_a_note_with_the_cure(report, facts, site, monkeypatch):
    note = r'note  mmengine \S+ loads a checkpoint that torch refuses.*\n      cure: export TORCH_FORCE_WEIGHTS_ONLY_LOAD=1'
    assert facts['mmengine']['unsafe'] is FORKS_ARE_HERE
    assert_fine(report(), note if FORKS_ARE_HERE else 'ok    mmengine')
    assert_fine(report(mmengine=dict(facts['mmengine'], unsafe=True)), note)
    if FORKS_ARE_HERE:
        monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '1')  # the cure cures
        assert try_again(facts, site, 'mmengine')['mmengine']['unsafe'] is False


def test_mmcv_without_operators(report, broken):
    assert_wrong(report('mmcv', mmcv=broken['mmcv']), 'mmcv', r'mmcv 2\S+ has no operators \(mmcv\._ext is missing\)',
                 MMCV + '--force-reinstall --no-deps --no-cache-dir ' + PINNED['mmcv'])


def test_setuptools_without_pkg_resources(check, site):
    block(site, 'pkg_resources')
    done = check('setuptools')
    if FORKS_ARE_HERE:
        assert_fine(done, r'ok    setuptools \S+, without pkg_resources, which this mmengine does not need')
    else:
        assert_wrong(done, 'setuptools', r'setuptools \S+ has no pkg_resources', r'\S+ -m pip install "setuptools<81" .*')


def test_torchvision_of_another_torch(report, facts, site):
    shadow(site, 'torchvision', "raise RuntimeError('operator torchvision::nms does not exist')", '0.20.1+cu124')
    fake_torch(site)  # quicker than the real one, which would not mend this either
    found = try_again(facts, site, 'torchvision')
    build = 'cu' + torch.version.cuda.replace('.', '') if torch.version.cuda else 'cpu'
    minor = int(torch.__version__.split('.')[1]) + 15
    assert_wrong(report('torchvision', **found), 'torchvision',
                 rf'torchvision 0\.20\.1\+cu124 does not fit torch {re.escape(torch.__version__)}: .*torchvision::nms',
                 rf'\S+ -m pip install --force-reinstall --no-deps "torchvision==0\.{minor}\.\S+" --index-url \S+/{build}')


def test_torchvision_that_the_tools_get_round_is_a_note_with_the_cure(report, broken):
    assert_fine(report('torchvision', torchvision=broken['torchvision']),
                r'note  torchvision 0\.20\.1 does not fit torch .*torchvision::nms.* get round it.*\n'
                r'      cure: .*"torchvision==0\.')


def test_an_mmcv_that_is_too_new_is_refused_by_the_libraries(report, facts, broken):
    done = report(*REFUSING, mmcv=dict(facts['mmcv'], version=TOO_NEW), **{library: broken[library] for library in REFUSING})
    for library in REFUSING:
        assert_wrong(done, ', '.join(REFUSING), rf'{library} \S+ takes mmcv below {TOO_NEW}, and mmcv {TOO_NEW} is installed',
                     MMCV + PINNED['mmcv'])


def test_no_mmseg(report, facts, site):
    block(site, 'mmseg')
    assert_wrong(report('mmseg', **try_again(facts, site, 'mmseg')), 'mmseg',
                 'mmseg is not installed: segmentation configs need it',
                 r'\S+ -m pip install ' + PINNED['mmseg'] + ('' if FORKS_ARE_HERE else ' ftfy regex'))


def test_an_empty_environment(root, tmp_path):
    """The tool as a user runs it, with an interpreter that has nothing."""
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', str(tmp_path / 'venv')], check=True)
    done = subprocess.run([str(tmp_path / 'venv' / 'bin' / 'python'), str(root / 'tools' / 'check_env.py')],
                          capture_output=True, text=True, check=False, cwd='/',
                          env={name: value for name, value in os.environ.items() if name != 'PYTHONPATH'})
    assert done.returncode == 1 and not done.stderr
    for item in ('torch', 'numpy', 'opencv', 'torchvision', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'):
        # by the interpreter that was checked, not by the first one on the path
        assert re.search(rf'^wrong {item} is not installed.*\n      cure: .*{tmp_path}/venv/bin/python -m pip install ',
                         done.stdout, re.MULTILINE), done.stdout
    assert 'note  hybrid_mm' in done.stdout and 'tools/setup_env.sh' in done.stdout


def test_an_import_that_ends_the_interpreter_is_reported_and_the_rest_is_checked(check, site):
    shadow(site, 'torch', 'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', '2.1.0')
    done = check('mmengine')
    assert_wrong(done, 'torch', r'torch does not work: the import ends the interpreter with signal SIGSEGV',
                 r'\S+ -m pip install torch==.*')
    assert re.search(r'^ok    numpy \d', done.stdout, re.MULTILINE)
    assert re.search(r'^note  mmengine \S+ was not tried: torch comes first', done.stdout, re.MULTILINE)


def test_an_import_that_prints_and_exits_is_reported(check, site):
    shadow(site, 'torch', "print('{\"torch\": 1}'); raise SystemExit(0)", '2.1.0')
    assert_wrong(check('torch'), 'torch', r'torch 2\.1\.0 does not work: SystemExit: 0', r'\S+ -m pip install torch==.*')


def test_modules_in_the_current_folder_are_not_taken_for_libraries(check, tmp_path):
    (tmp_path / 'here').mkdir()
    shadow(tmp_path / 'here', 'pkg_resources', 'raise ImportError', '1.0')
    assert_fine(check('setuptools', cwd=tmp_path / 'here'), 'ok    setuptools .*, with pkg_resources')


def test_torch_of_numpy_1_beside_numpy_2(check, site):
    fake_torch(site, version='2.2.0', numpy_error='Numpy is not available')
    assert_wrong(check('numpy', 'torch'), 'numpy', r'torch 2\.2\.0 cannot use numpy 2\S+: Numpy is not available',
                 r'\S+ -m pip install "numpy<2"')


def test_gpu_beside_a_torch_for_the_cpu(check, site):
    fake_torch(site)
    assert_fine(check('torch', **fake_gpu(site)), 'note  GPU 0: NVIDIA H100 lies idle: torch 2.13.0 was built for the CPU\n'
                rf'      cure: .*torch==2\.13\.0 .*/cu130 && {MMCV}--force-reinstall')


def test_gpu_that_a_variable_hides(check, site):
    fake_torch(site, cuda='13.0')
    assert_fine(check('torch', CUDA_VISIBLE_DEVICES='', **fake_gpu(site)),
                'note  GPU 0: NVIDIA H100 lies idle: CUDA_VISIBLE_DEVICES hides it\n      cure: unset CUDA_VISIBLE_DEVICES')


def test_gpu_whose_driver_is_too_old(check, site):
    fake_torch(site, cuda='13.0')
    assert_fine(check('torch', **fake_gpu(site)), 'note  GPU 0: NVIDIA H100 lies idle: torch, built for CUDA 13.0, .*driver')


def test_torch_for_gpus_without_a_gpu(check, site):
    fake_torch(site, cuda='13.0')
    assert_fine(check('torch', PATH=str(site)), r'ok    torch 2\.13\.0, built for CUDA 13\.0',
                r'note  GPU: none found, though torch was built for CUDA 13\.0')


def test_an_unknown_item_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        commands.main('check_env', ['mmocr'])
    assert end.value.code == 2 and "'mmocr' is not allowed; choose from python, setuptools, torch" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- sentences from facts


def facts_of(*items, **changes):
    """Facts of an environment where all is well, with changes to some items."""
    facts = {item: dict(found=True, version=PINS.get(item, '1.0')) for item in expand(items or NEEDS)}
    more = dict(python=dict(version='3.11.7', others=[]), setuptools=dict(pkg_resources=True, needed=True),
                torch=dict(cuda='13.0', hip=None),
                gpu=dict(cards=['GPU 0: H100'], names=['H100'], hidden=False, nvcc=True, compiler=True, headers=True))
    for item, values in [*more.items(), *changes.items()]:
        facts.get(item, {}).update(values)
    return facts


def wrong(facts):
    return [finding for finding in diagnose(facts) if finding.status == 'wrong']


def error(message, type='ImportError', missing=None):
    return dict(error=dict(type=type, message=message, missing=missing))


def test_nothing_is_wrong_with_the_pinned_versions():
    assert not wrong(facts_of())


NO_OPERATORS = dict(mmcv=error("No module named 'mmcv._ext'", 'ModuleNotFoundError', 'mmcv._ext'))


@pytest.mark.parametrize('gpu, fault, cure', [
    (dict(compiler=False), 'no C++ compiler', 'sudo apt-get install g++ '),
    (dict(headers=False), 'Python.h is not found', 'sudo apt-get install python3.11-dev '),
    (dict(nvcc=False), 'nvcc is not found', 'install the CUDA toolkit 13.0 '),
])
def test_what_compiling_lacks_is_said_before_the_operators_and_not_without_need(gpu, fault, cure):
    compiler, mmcv = wrong(facts_of(gpu=gpu, **NO_OPERATORS))
    assert (compiler.item, mmcv.item) == ('compiler', 'mmcv')
    assert compiler.text.startswith(fault) and compiler.cure.startswith(cure)
    assert not wrong(facts_of(gpu=gpu))
    assert [finding.item for finding in wrong(facts_of(gpu=dict(nvcc=False, names=[]), **NO_OPERATORS))] == ['mmcv']


@pytest.mark.parametrize('item, change, fault, cure', [
    ('python', dict(version='3.7.16'), 'Python 3.7.16 is too old: hybrid_mm needs 3.8', 'python3.11 -m venv'),
    ('torch', dict(version='1.13.1'), 'torch 1.13.1 is too old', 'torch==2.13.0'),
    ('mmengine', dict(version='0.10.5'), 'mmengine 0.10.5 is too old', 'mmengine==0.10.7'),
    ('gpu', dict(failure='no kernel image'), 'torch 2.13.0 cannot compute on the GPU: no kernel image',
     'cu130 && MMCV_WITH_OPS=1'),
    ('mmcv', dict(gpu_error='not compiled with GPU support'), 'do not run on the GPU: not compiled',
     'FORCE_CUDA=1 MMCV_WITH_OPS=1'),
    ('mmcv', error('_ext.so: undefined symbol: _ZN3c10'), 'compiled for another torch: ImportError', '--force-reinstall'),
    ('cv2', error('libGL.so.1: cannot open shared object file'), 'opencv 5.0.0.93 needs a library', 'opencv-python-headless'),
    ('pycocotools', error('numpy.dtype size changed', 'ValueError'), 'compiled for another numpy',
     '--force-reinstall'),
    ('mmseg', error("No module named 'ftfy'", missing='ftfy'), 'mmseg 1.2.2 needs ftfy', 'mmsegmentation==1.2.2 ftfy regex'),
    ('mmpretrain', error("cannot import name 'x' from 'transformers'"), 'does not go with this version of transformers',
     '"transformers<4.56"'),
    ('mmdet', dict(error('', 'AssertionError'), version='3.1.0', bound='2.1.0'), 'mmdet 3.1.0 takes mmcv below 2.1.0',
     'mmdet==3.3.0'),
    ('hybrid_mm', error('broken'), 'hybrid_mm 1.0 does not work: ImportError: broken', ''),
    ('gpu', error('the import ends the interpreter', ''), 'GPU 1.0 does not work: the import ends the interpreter', ''),
])
def test_fault_and_cure(item, change, fault, cure):
    finding, = wrong(facts_of(**{item: change}))
    assert finding.item == item and fault in finding.text and cure in finding.cure


def test_mmcv_lite_is_removed_first():
    finding, = wrong(facts_of(python=dict(others=['mmcv-lite']), **NO_OPERATORS))
    assert re.match(r'\S+ -m pip uninstall -y mmcv-lite && MMCV_WITH_OPS=1 ', finding.cure)


def test_maintained_forks_are_judged_by_their_modules_and_cured_from_their_own_distributions():
    fork = dict(python=dict(others=['onedl-mmcv', 'onedl-mmengine']), mmengine=dict(version='0.10.12'),
                mmcv=dict(version='2.3.6'), setuptools=dict(pkg_resources=False, needed=False))
    assert not wrong(facts_of(**fork))
    # compared with the versions of the forks on which the tests ran
    assert [finding.text for finding in diagnose(facts_of('mmcv', **fork)) if finding.item in ('mmengine', 'mmcv')] == \
        ['mmengine 0.10.12', 'mmcv 2.3.6, with its operators']
    finding, = wrong(facts_of(**fork, mmseg=dict(found=False)))
    assert finding.cure.endswith('-m pip install onedl-mmsegmentation==1.4.2')
    finding, = wrong(facts_of(**fork, mmdet=dict(error('', 'AssertionError'), bound='2.2.0')))
    assert re.fullmatch(r'\S+ -m pip uninstall -y mmdet && \S+ -m pip install onedl-mmdetection==3.5.1', finding.cure)
    assert 'mmdetection' not in wrong(facts_of(python=dict(others=['onedl-mim']), mmdet=dict(found=False)))[0].cure


def test_upstream_over_a_fork_is_found_and_neither_is_left(site):
    for name, version in (('onedl_mmdetection', '3.5.1'), ('mmdet', '3.3.0')):
        install(site, name, version)
    python = collect(['python'], None, site)['python']
    finding, = wrong(facts_of(python=python))
    assert finding.text == 'mmdet is installed twice, by mmdet and by onedl-mmdetection, which overwrite files of each other'
    assert re.fullmatch(r'\S+ -m pip uninstall -y mmdet onedl-mmdetection && \S+ -m pip install onedl-mmdetection==3.5.1',
                        finding.cure)


def test_the_forks_are_recognised_by_what_is_installed(site):
    install(site, 'onedl_mmengine', '0.10.12')
    assert 'onedl-mmengine' in collect(['python'], None, site)['python']['others']


def test_torchvision_may_be_absent_without_mmpretrain():
    absent = dict(torchvision=dict(found=False))
    assert not wrong(facts_of('mmdet', 'mmseg', **absent))
    finding, = wrong(facts_of(**absent))
    assert '"torchvision==0.28.0" --index-url https://download.pytorch.org/whl/cu130' in finding.cure


def test_an_old_python_gets_no_versions_that_it_cannot_have():
    finding, = wrong(facts_of(python=dict(version='3.9.18'), numpy=dict(found=False)))
    assert finding.cure.endswith('-m pip install numpy')


# ------------------------------------------------------------------------------------------------------------- the module


def test_the_module_needs_nothing_but_the_standard_library(root):
    code = f'import sys; sys.path.insert(0, {str(root)!r}); import hybrid_mm.environment'
    subprocess.run([sys.executable, '-I', '-S', '-c', code], check=True)


def test_a_package_that_was_copied_alone_imports_and_cures_without_versions(root, tmp_path):
    shutil.copytree(root / 'hybrid_mm' / 'environment', tmp_path / 'hybrid_mm' / 'environment')
    for name in ('__init__.py', 'errors.py', 'paths.py', 'version.py'):
        shutil.copy(root / 'hybrid_mm' / name, tmp_path / 'hybrid_mm')
    code = (f'import sys; sys.path.insert(0, {str(tmp_path)!r}); from hybrid_mm.environment.cures import cure_for; '
            'print(cure_for("mmdet", {"python": {"version": "3.11.7"}}))')
    done = subprocess.run([sys.executable, '-I', '-S', '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith('-m pip install mmdet\n')


def test_versions_are_those_of_the_requirements_and_of_the_package(root):
    stack = dict(line.split('==') for line in (root / 'requirements' / 'stack.txt').read_text().splitlines() if '==' in line)
    names = {'mmseg': 'mmsegmentation', 'cv2': 'opencv-python'}
    assert PINS == {item: stack[names.get(item, item)] for item in PINS}
    forks = (root / 'requirements' / 'forks.txt').read_text().splitlines()
    assert ['=='.join(pin) for pin in FORKS.values()] == [line for line in forks if not line.startswith('#')]
    setup = (root / 'setup.py').read_text()
    for item, version in MINIMA.items():
        name = {'python': "python_requires='"}.get(item, f"'{names.get(item, item)}")
        assert re.search(rf'{name}>={re.escape(version)}[,\']', setup), item
