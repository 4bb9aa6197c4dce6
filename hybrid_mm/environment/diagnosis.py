"""From facts to sentences. Needs no environment, so that any fault can be tested."""
import re
from typing import Dict, List

from .cures import cure_for, cure_for_bound, cure_for_gpu, cure_for_two, pip_command
from .items import DISTRIBUTIONS, FORKS, MINIMA, NAMES, NEEDS, Finding, pin_of, version_numbers, works

_PURPOSES = {'mmdet': 'detection configs', 'mmseg': 'segmentation configs', 'mmpretrain': 'classification configs'}


def diagnose(facts: Dict[str, dict]) -> List[Finding]:
    """Turn facts into sentences.

    Args:
        facts: those of `collect_facts`.

    Returns:
        A finding for each item, in the order of `NEEDS`; before the first one whose cure compiles mmcv, one about the
        compiler, if there is none.
    """
    findings = [_diagnose_item(item, facts) for item in NEEDS if item in facts]
    if findings[0].item == 'python' and findings[0].status == 'wrong':
        return findings[:1]  # the other cures would go into the wrong interpreter
    compiles = [index for index, finding in enumerate(findings)
                if finding.status == 'wrong' and 'MMCV_WITH_OPS' in finding.cure]
    if compiles and 'compiler' in facts.get('gpu', {}):
        findings[compiles[0]:compiles[0]] = _diagnose_compiler(facts)
    return findings


def _diagnose_item(item: str, facts: Dict[str, dict]) -> Finding:
    own = facts[item]
    name = f'{NAMES.get(item, item)} {own["version"]}' if own['version'] else NAMES.get(item, item)
    if not own['found']:
        return _absent(item, facts)
    if item in facts['python'].get('twice', []):
        return Finding(item, 'wrong', f'{item} is installed twice, by {DISTRIBUTIONS.get(item, item)} and by {FORKS[item][0]}, '
                       'which overwrite files of each other', cure_for_two(item, facts))
    if 'untried' in own:
        return Finding(item, 'note', f'{name} was not tried: {NAMES.get(own["untried"], own["untried"])} comes first')
    if 'error' in own:
        return _broken(item, name, facts)
    if own['version'] and item in MINIMA and version_numbers(own['version']) < version_numbers(MINIMA[item]):
        return Finding(item, 'wrong', f'{name} is too old: hybrid_mm needs {MINIMA[item]} or later', cure_for(item, facts))
    if item in _DETAILS:
        return _DETAILS[item](item, name, facts)
    return Finding(item, 'ok', name + _tested(item, facts))


def _absent(item: str, facts: Dict[str, dict]) -> Finding:
    if item == 'torchvision' and 'mmpretrain' not in facts:
        return Finding(item, 'ok', 'torchvision is not installed; mmpretrain alone needs it')
    text = f'{NAMES.get(item, item)} is not installed'
    if item in _PURPOSES:
        others = [other for other in _PURPOSES if other != item and other in facts]
        text += f': {_PURPOSES[item]} need it'
        if others:
            text += f'; to check without it: check_env.py {" ".join(others)}'
    return Finding(item, 'wrong', text, cure_for(item, facts))


def _broken(item: str, name: str, facts: Dict[str, dict]) -> Finding:
    own, error = facts[item], facts[item]['error']
    reason = f'{error["type"]}: {error["message"]}' if error['type'] else error['message']
    text, cure = f'{name} does not work: {reason}', cure_for(item, facts, again=True)
    missing = error['missing']
    if item == 'mmcv' and missing and missing.startswith('mmcv.'):
        text = f'{name} has no operators ({missing} is missing): it was installed without compiling them'
    elif item == 'mmcv' and re.search(r'undefined symbol|cannot open shared object|DLL load failed|Symbol not found', reason):
        text = f'the operators of {name} do not load; most likely they were compiled for another torch: {reason}'
    elif item == 'torchvision' and 'torchvision::' in reason:
        text = f'{name} does not fit torch {facts["torch"]["version"]}: {reason}'
    elif own.get('bound') and facts['mmcv']['version']:
        text = f'{name} takes mmcv below {own["bound"]}, and mmcv {facts["mmcv"]["version"]} is installed'
        cure = cure_for_bound(item, facts)
    elif re.search(r'numpy\.dtype size changed|NumPy 1\.x|numpy\.core\.multiarray failed', reason):
        text = f'{name} was compiled for another numpy than the one that is there: {reason}'
    elif 'transformers' in reason:
        text, cure = f'{name} does not go with this version of transformers: {reason}', f'{pip_command()} "transformers<4.56"'
    elif missing:
        text, cure = f'{name} needs {missing.split(".")[0]}, which is not installed', cure_for(item, facts)
    elif item == 'cv2' and 'libGL' in reason:
        text = f'{name} needs a library of the desktop: {reason}'
        cure = f'{pip_command()} --force-reinstall --no-deps opencv-python-headless'
    return Finding(item, 'wrong', text, cure)


def _diagnose_python(item: str, name: str, facts: Dict[str, dict]) -> Finding:
    version = facts[item]['version']
    tested = '' if version_numbers(version)[:2] == (3, 11) else '; the tests ran on 3.11'
    return Finding(item, 'ok', name + tested)


def _diagnose_setuptools(item: str, name: str, facts: Dict[str, dict]) -> Finding:
    if facts[item]['pkg_resources']:
        return Finding(item, 'ok', f'{name}, with pkg_resources')
    if not facts[item]['needed']:
        return Finding(item, 'ok', f'{name}, without pkg_resources, which this mmengine does not need')
    return Finding(item, 'wrong', f'{name} has no pkg_resources, which mmengine imports and compiling mmcv needs; '
                   'setuptools 82 dropped it', cure_for(item, facts))


def _diagnose_torch(item: str, name: str, facts: Dict[str, dict]) -> Finding:
    return Finding(item, 'ok', f'{name}, built for {_build(facts)}' + _tested(item, facts))


def _diagnose_gpu(item: str, name: str, facts: Dict[str, dict]) -> Finding:
    own, torch = facts[item], facts.get('torch', {})
    if own.get('failure'):
        return Finding(item, 'wrong', f'torch {torch["version"]} cannot compute on the GPU: {own["failure"]}',
                       cure_for_gpu(facts))
    if own['names']:
        same = len(set(own['names'])) == 1 and len(own['names']) > 1
        return Finding(item, 'ok', 'GPU: ' + (f'{len(own["names"])} x {own["names"][0]}' if same else ', '.join(own['names'])))
    if not works(torch or None):
        return Finding(item, 'note', f'GPU: {own["cards"][0] if own["cards"] else "none found"}; torch could not be asked')
    if not own['cards']:
        idle = f', though torch was built for {_build(facts)}' if torch.get('cuda') else ''
        return Finding(item, 'note', f'GPU: none found{idle}; everything runs on the CPU, and slowly')
    if not torch.get('cuda'):
        return Finding(item, 'note', f'{own["cards"][0]} lies idle: torch {torch["version"]} was built for {_build(facts)}',
                       cure_for_gpu(facts))
    if own['hidden']:
        return Finding(item, 'note', f'{own["cards"][0]} lies idle: CUDA_VISIBLE_DEVICES hides it',
                       'unset CUDA_VISIBLE_DEVICES')
    return Finding(item, 'note', f'{own["cards"][0]} lies idle: torch, built for {_build(facts)}, does not see it; mostly the '
                   f'driver is older than that', 'install a newer driver from https://www.nvidia.com/drivers')


def _diagnose_numpy(item: str, name: str, facts: Dict[str, dict]) -> Finding:
    own = facts[item]
    if own.get('torch_error'):
        return Finding(item, 'wrong', f'torch {facts["torch"]["version"]} cannot use {name}: {own["torch_error"]}',
                       cure_for(item, facts))
    return Finding(item, 'ok', name + _tested(item, facts))


def _diagnose_torchvision(item: str, name: str, facts: Dict[str, dict]) -> Finding:
    own = facts[item]
    if own.get('mended'):
        return Finding(item, 'note', f'{name} does not fit torch {facts["torch"]["version"]} ({own["mended"]}). tools/train.py '
                       'and the other tools here get round it; those of mmdet and mmpretrain, and your own scripts, fail',
                       cure_for(item, facts, again=True))
    return Finding(item, 'ok', name + _tested(item, facts))


def _diagnose_mmengine(item: str, name: str, facts: Dict[str, dict]) -> Finding:
    if facts[item].get('unsafe'):  # the maintained fork's
        return Finding(item, 'note', f'{name} loads a checkpoint that torch refuses as unsafe, and runs the code in it; with '
                       'the cure it is refused', 'export TORCH_FORCE_WEIGHTS_ONLY_LOAD=1')
    return Finding(item, 'ok', name + _tested(item, facts))


def _diagnose_mmcv(item: str, name: str, facts: Dict[str, dict]) -> Finding:
    own = facts[item]
    if own.get('gpu_error'):
        return Finding(item, 'wrong', f'the operators of {name} do not run on the GPU: {own["gpu_error"]}',
                       'FORCE_CUDA=1 ' + cure_for(item, facts, again=True))
    return Finding(item, 'ok', f'{name}, with its operators' + _tested(item, facts))


def _diagnose_compiler(facts: Dict[str, dict]) -> List[Finding]:
    own, findings = facts['gpu'], []
    if not own['compiler']:
        findings.append(Finding('compiler', 'wrong', 'no C++ compiler is found, and the operators of mmcv have to be compiled',
                                'sudo apt-get install g++    # or the package of your system'))
    if not own['headers']:
        version = '.'.join(facts['python']['version'].split('.')[:2])
        findings.append(Finding('compiler', 'wrong', 'Python.h is not found, and compiling the operators of mmcv needs it',
                                f'sudo apt-get install python{version}-dev    # or the package of your system'))
    cuda = facts.get('torch', {}).get('cuda')
    if own['names'] and cuda and not own['nvcc']:
        findings.append(Finding('compiler', 'wrong', 'nvcc is not found, and compiling the operators of mmcv for the GPU '
                                'needs it', f'install the CUDA toolkit {cuda} from '
                                'https://developer.nvidia.com/cuda-toolkit-archive and set CUDA_HOME to its folder'))
    return findings


def _build(facts: Dict[str, dict]) -> str:
    torch = facts['torch']
    return f'CUDA {torch["cuda"]}' if torch.get('cuda') else f'ROCm {torch["hip"]}' if torch.get('hip') else 'the CPU'


def _tested(item: str, facts: Dict[str, dict]) -> str:
    version, pin = facts[item]['version'], pin_of(item, facts)[1]
    return '' if not pin or not version or pin.startswith(version.split('+')[0]) else f'; the tests ran on {pin}'


_DETAILS = {
    'python': _diagnose_python, 'setuptools': _diagnose_setuptools, 'torch': _diagnose_torch, 'gpu': _diagnose_gpu,
    'numpy': _diagnose_numpy, 'torchvision': _diagnose_torchvision, 'mmengine': _diagnose_mmengine, 'mmcv': _diagnose_mmcv,
}
