"""From facts to sentences. Needs no environment, so that any fault can be tested."""
import re
from typing import Any, Callable, Dict, List, Tuple

from .cures import cure_for, cure_for_bound, cure_for_gpu, pip_command
from .items import DISTRIBUTIONS, FORKS, MINIMA, NAMES, NEEDS, Facts, Finding, pin_of, version_numbers, works

_PURPOSES = {'mmdet': 'detection configs', 'mmseg': 'segmentation configs', 'mmpretrain': 'classification configs'}
_LIMITS: Dict[str, Tuple[str, str, str, Callable[[Facts], str]]] = {  # item -> a fact, and what it is if it is there
    'gpu': ('failure', 'wrong', 'torch {torch} cannot compute on the GPU: {fact}', cure_for_gpu),
    'numpy': ('torch_error', 'wrong', 'torch {torch} cannot use {name}: {fact}', lambda facts: cure_for('numpy', facts)),
    'torchvision': ('mended', 'note', '{name} does not fit torch {torch} ({fact}). tools/train.py and the other tools here get '
                    'round it; those of mmdet and mmpretrain, and your own scripts, fail',
                    lambda facts: cure_for('torchvision', facts, again=True)),
    # the maintained fork's
    'mmengine': ('unsafe', 'note', '{name} loads a checkpoint that torch refuses as unsafe, and runs the code in it; with the '
                 'cure it is refused', lambda facts: 'export TORCH_FORCE_WEIGHTS_ONLY_LOAD=1'),
    'mmcv': ('gpu_error', 'wrong', 'the operators of {name} do not run on the GPU: {fact}',
             lambda facts: 'FORCE_CUDA=1 ' + cure_for('mmcv', facts, again=True)),
}


def diagnose(facts: Facts) -> List[Finding]:
    """Turn facts into sentences.

    Args:
        facts: those of `collect_facts`.

    Returns:
        A finding for each item, in the order of `NEEDS`; before the first one whose cure compiles mmcv, one about the
        compiler, if there is none.
    """
    findings = [Finding(item, *_diagnose(item, facts)) for item in NEEDS if item in facts]
    if findings[0].item == 'python' and findings[0].status == 'wrong':
        return findings[:1]  # the other cures would go into the wrong interpreter
    compiles = [i for i, finding in enumerate(findings) if finding.status == 'wrong' and 'MMCV_WITH_OPS' in finding.cure]
    if compiles and 'compiler' in facts.get('gpu', {}):
        findings[compiles[0]:compiles[0]] = _diagnose_compiler(facts)
    return findings


def _diagnose(item: str, facts: Facts) -> Tuple[str, str, str]:
    """Status, text and cure."""
    own, torch = facts[item], facts.get('torch', {})
    name = f'{NAMES.get(item, item)} {own["version"]}' if own['version'] else NAMES.get(item, item)
    if not own['found']:
        return _diagnose_absent(item, facts)
    if item in facts['python'].get('twice', []):
        upstream, fork = DISTRIBUTIONS.get(item, item), FORKS[item][0]
        return ('wrong', f'{item} is installed twice, by {upstream} and by {fork}, which overwrite files of each other',
                f'{pip_command("uninstall")} -y {upstream} {fork} && {cure_for(item, facts)}')
    if 'untried' in own:
        return 'note', f'{name} was not tried: {NAMES.get(own["untried"], own["untried"])} comes first', ''
    if 'error' in own:
        return ('wrong', *_diagnose_error(item, name, facts))
    if own['version'] and item in MINIMA and version_numbers(own['version']) < version_numbers(MINIMA[item]):
        return 'wrong', f'{name} is too old: hybrid_mm needs {MINIMA[item]} or later', cure_for(item, facts)
    if item in _LIMITS and own.get(_LIMITS[item][0]):
        fact, status, text, cure = _LIMITS[item]
        return status, text.format(name=name, torch=torch.get('version'), fact=own[fact]), cure(facts)
    if item == 'gpu':
        return _diagnose_gpu(facts)
    if item == 'setuptools' and own['pkg_resources']:
        return 'ok', f'{name}, with pkg_resources', ''
    if item == 'setuptools' and not own['needed']:
        return 'ok', f'{name}, without pkg_resources, which this mmengine does not need', ''
    if item == 'setuptools':
        return ('wrong', f'{name} has no pkg_resources, which mmengine imports and compiling mmcv needs; setuptools 82 dropped '
                'it', cure_for(item, facts))
    version, pin = (own['version'] or '').split('+')[0], pin_of(item, facts)[1] or ''
    if item == 'python':
        version, pin = '.'.join(version.split('.')[:2]), '3.11'
    more = dict(torch=f', built for {_build(torch)}', mmcv=', with its operators').get(item, '')
    return 'ok', name + more + ('' if pin.startswith(version) or not pin else f'; the tests ran on {pin}'), ''


def _diagnose_absent(item: str, facts: Facts) -> Tuple[str, str, str]:
    if item == 'torchvision' and 'mmpretrain' not in facts:
        return 'ok', 'torchvision is not installed; mmpretrain alone needs it', ''
    text = f'{NAMES.get(item, item)} is not installed'
    if item in _PURPOSES:
        others = [other for other in _PURPOSES if other != item and other in facts]
        text += f': {_PURPOSES[item]} need it' + (f'; to check without it: check_env.py {" ".join(others)}' if others else '')
    return 'wrong', text, cure_for(item, facts)


def _diagnose_error(item: str, name: str, facts: Facts) -> Tuple[str, str]:
    own, error = facts[item], facts[item]['error']
    reason = f'{error["type"]}: {error["message"]}' if error['type'] else error['message']
    missing, again = error['missing'] or '', cure_for(item, facts, again=True)
    if item == 'mmcv' and missing.startswith('mmcv.'):
        return f'{name} has no operators ({missing} is missing): it was installed without compiling them', again
    if item == 'mmcv' and re.search(r'undefined symbol|cannot open shared object|DLL load failed|Symbol not found', reason):
        return f'the operators of {name} do not load; most likely they were compiled for another torch: {reason}', again
    if item == 'torchvision' and 'torchvision::' in reason:
        return f'{name} does not fit torch {facts["torch"]["version"]}: {reason}', again
    if own.get('bound') and facts['mmcv']['version']:
        return (f'{name} takes mmcv below {own["bound"]}, and mmcv {facts["mmcv"]["version"]} is installed',
                cure_for_bound(item, facts))
    if re.search(r'numpy\.dtype size changed|NumPy 1\.x|numpy\.core\.multiarray failed', reason):
        return f'{name} was compiled for another numpy than the one that is there: {reason}', again
    if 'transformers' in reason:
        return f'{name} does not go with this version of transformers: {reason}', f'{pip_command()} "transformers<4.56"'
    if missing:
        return f'{name} needs {missing.split(".")[0]}, which is not installed', cure_for(item, facts)
    if item == 'cv2' and 'libGL' in reason:
        return (f'{name} needs a library of the desktop: {reason}',
                f'{pip_command()} --force-reinstall --no-deps opencv-python-headless')
    return f'{name} does not work: {reason}', again


def _diagnose_gpu(facts: Facts) -> Tuple[str, str, str]:
    torch, names, cards = facts.get('torch', {}), facts['gpu']['names'], facts['gpu']['cards']
    if names:
        same = len(set(names)) == 1 and len(names) > 1
        return 'ok', 'GPU: ' + (f'{len(names)} x {names[0]}' if same else ', '.join(names)), ''
    if not works(torch or None):
        return 'note', f'GPU: {cards[0] if cards else "none found"}; torch could not be asked', ''
    if not cards:
        idle = f', though torch was built for {_build(torch)}' if torch.get('cuda') else ''
        return 'note', f'GPU: none found{idle}; everything runs on the CPU, and slowly', ''
    if not torch.get('cuda'):
        return 'note', f'{cards[0]} lies idle: torch {torch["version"]} was built for {_build(torch)}', cure_for_gpu(facts)
    if facts['gpu']['hidden']:
        return 'note', f'{cards[0]} lies idle: CUDA_VISIBLE_DEVICES hides it', 'unset CUDA_VISIBLE_DEVICES'
    return ('note', f'{cards[0]} lies idle: torch, built for {_build(torch)}, does not see it; mostly the driver is older than '
            'that', 'install a newer driver from https://www.nvidia.com/drivers')


def _diagnose_compiler(facts: Facts) -> List[Finding]:
    own, cuda = facts['gpu'], facts.get('torch', {}).get('cuda')
    version = '.'.join(facts['python']['version'].split('.')[:2])
    lacks = (
        (not own['compiler'], 'no C++ compiler is found, and the operators of mmcv have to be compiled',
         'sudo apt-get install g++    # or the package of your system'),
        (not own['headers'], 'Python.h is not found, and compiling the operators of mmcv needs it',
         f'sudo apt-get install python{version}-dev    # or the package of your system'),
        (own['names'] and cuda and not own['nvcc'], 'nvcc is not found, and compiling the operators of mmcv for the GPU needs it',
         f'install the CUDA toolkit {cuda} from https://developer.nvidia.com/cuda-toolkit-archive and set CUDA_HOME to its '
         'folder'))
    return [Finding('compiler', 'wrong', text, cure) for is_lacking, text, cure in lacks if is_lacking]


def _build(torch: Dict[str, Any]) -> str:
    return f'CUDA {torch["cuda"]}' if torch.get('cuda') else f'ROCm {torch["hip"]}' if torch.get('hip') else 'the CPU'
