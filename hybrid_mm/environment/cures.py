"""The commands that install what is missing or wrong."""
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Dict

from .items import DISTRIBUTIONS, FORKS, PINS, is_fork, pin_of, version_numbers

_WHEELS = 'https://download.pytorch.org/whl/'


def cure_for(item: str, facts: Dict[str, dict], again: bool = False) -> str:
    """The command that installs what an item needs, or an empty string.

    Args:
        item: a key of `NEEDS`.
        facts: those of `collect_facts`.
        again: whether the version that is there may be the right one, and has to be replaced all the same.
    """
    others = facts['python'].get('others', [])
    replace = '--force-reinstall --no-deps ' if again else ''
    if item not in PINS and item != 'python':
        return ''  # the sentence is all there is to say
    if item == 'python':
        return 'python3.11 -m venv .venv && source .venv/bin/activate'
    if item == 'setuptools':
        return f'{pip_command()} "setuptools<81" wheel ninja'
    if item == 'torch':
        return f'{pip_command()} {_pinned(item, facts)}    # or the build for your CUDA version'
    if item == 'numpy':
        old_torch = (0, ) < version_numbers(facts.get('torch', {}).get('version')) < (2, 3)  # compiled for numpy 1
        return f'{pip_command()} {replace}' + ('"numpy<2"' if old_torch else _pinned(item, facts))
    if item == 'torchvision':
        return pip_command() + f' {replace}' + _torchvision(facts)
    if item == 'mmcv':
        # no cache: it can hold the wheel without operators
        replace = '--force-reinstall --no-deps --no-cache-dir ' if again else ''
        lite = f'{pip_command("uninstall")} -y mmcv-lite && ' if 'mmcv-lite' in others else ''
        return f'{lite}MMCV_WITH_OPS=1 {pip_command()} --no-build-isolation {replace}{_pinned(item, facts)}'
    if item == 'cv2':
        return f'{pip_command()} {replace}{_pinned(item, facts)}'
    undeclared = ' ftfy regex' if item == 'mmseg' and not again and not is_fork(facts) else ''  # the fork declares them
    return f'{pip_command()} {replace}{_pinned(item, facts)}{undeclared}'


def cure_for_bound(item: str, facts: Dict[str, dict]) -> str:
    """Where a library refuses a new mmcv: the mmcv of the pins, or the library that goes with the mmcv that is there."""
    if version_numbers(pin_of('mmcv', facts)[1]) < version_numbers(facts[item]['bound']):
        return cure_for('mmcv', facts)
    # libraries of the forks take their mmcv, so among them this one is upstream's
    remove = f'{pip_command("uninstall")} -y {DISTRIBUTIONS.get(item, item)} && ' if is_fork(facts) else ''
    return remove + cure_for(item, facts)


def cure_for_two(item: str, facts: Dict[str, dict]) -> str:
    """Where upstream's library and its fork are both installed: neither is left, then the fork is installed."""
    both = f'{DISTRIBUTIONS.get(item, item)} {FORKS[item][0]}'
    return f'{pip_command("uninstall")} -y {both} && {cure_for(item, facts)}'


def cure_for_gpu(facts: Dict[str, dict]) -> str:
    """Torch and torchvision for GPUs, and mmcv compiled again, since its operators fit one build of torch."""
    both = f'{_pinned("torch", facts)} {_pinned("torchvision", facts)}'
    return (f'{pip_command()} --force-reinstall {both} --index-url {_WHEELS}cu130 && '
            + cure_for('mmcv', facts, again=True))


def _pinned(item: str, facts: Dict[str, dict]) -> str:
    """What pip is asked for: the version of the tests, except that some of them exist from Python 3.11 on alone."""
    name, version = pin_of(item, facts)
    old_python = version_numbers(facts['python']['version']) < (3, 11) and not item.startswith('mm')
    return name if old_python else f'{name}=={version}'


def _torchvision(facts: Dict[str, dict]) -> str:
    """The version and the build that belong to the torch that is there: torch 2.x goes with torchvision 0.(x + 15)."""
    torch = facts.get('torch', {})
    numbers = version_numbers(torch.get('version'))
    if not numbers or numbers[0] != 2:
        return _pinned('torchvision', facts)
    same = torch['version'].split('+')[0] == PINS['torch']
    version = PINS['torchvision'] if same else f'0.{numbers[1] + 15}.*'
    if torch.get('hip'):
        return f'"torchvision=={version}"    # the build for ROCm {torch["hip"]}'
    build = 'cu' + torch['cuda'].replace('.', '') if torch.get('cuda') else 'cpu'
    return f'"torchvision=={version}" --index-url {_WHEELS}{build}'


def pip_command(command: str = 'install') -> str:
    """pip of this interpreter, which need not be the first one on the path."""
    first = shutil.which('python')
    same = first and os.path.abspath(first) == os.path.abspath(sys.executable)
    return f'{"python" if same else shlex.quote(short_path(Path(sys.executable)))} -m pip {command}'


def short_path(path: Path) -> str:
    """A path as seen from the current folder, if it lies below a folder of its own."""
    try:
        here = Path.cwd()
        return str(path.relative_to(here)) if here != here.parent else str(path)
    except (ValueError, OSError):
        return str(path)
