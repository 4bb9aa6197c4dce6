"""The commands that install what is missing or wrong."""
import os
import shlex
import shutil
import sys
from pathlib import Path

from .items import DISTRIBUTIONS, PINS, Facts, is_fork, pin_of, version_numbers

_WHEELS = 'https://download.pytorch.org/whl/'


def cure_for(item: str, facts: Facts, again: bool = False) -> str:
    """The command that installs an item, or an empty string where there is none; ``again`` replaces the version that is there."""
    if item == 'python':
        return 'python3.11 -m venv .venv && source .venv/bin/activate'
    if item not in PINS:
        return ''
    pip, what = pip_command(), _pinned(item, facts)
    replace = '--force-reinstall --no-deps ' if again else ''
    if item == 'setuptools':
        return f'{pip} "setuptools<81" wheel ninja'
    if item == 'torch':
        return f'{pip} {what}    # or the build for your CUDA version'
    if item == 'mmcv':
        replace += '--no-cache-dir ' if again else ''  # the cache can hold the wheel without operators
        lite = f'{pip_command("uninstall")} -y mmcv-lite && ' if 'mmcv-lite' in facts['python'].get('others', []) else ''
        return f'{lite}MMCV_WITH_OPS=1 {pip} --no-build-isolation {replace}{what}'
    if item == 'numpy' and (0, ) < version_numbers(facts.get('torch', {}).get('version')) < (2, 3):
        what = '"numpy<2"'  # for which that torch was compiled
    if item == 'torchvision':
        what = _torchvision(facts)
    if item == 'mmseg' and not again and not is_fork(facts):  # the fork declares them
        what += ' ftfy regex'
    return f'{pip} {replace}{what}'


def cure_for_bound(item: str, facts: Facts) -> str:
    """Where a library refuses a new mmcv: the mmcv of the pins, or the library that goes with the mmcv that is there."""
    if version_numbers(pin_of('mmcv', facts)[1]) < version_numbers(facts[item]['bound']):
        return cure_for('mmcv', facts)
    # libraries of the forks take their mmcv, so among them this one is upstream's
    remove = f'{pip_command("uninstall")} -y {DISTRIBUTIONS.get(item, item)} && ' if is_fork(facts) else ''
    return remove + cure_for(item, facts)


def cure_for_gpu(facts: Facts) -> str:
    """Torch and torchvision for GPUs, and mmcv compiled again, since its operators fit one build of torch."""
    both = f'{_pinned("torch", facts)} {_pinned("torchvision", facts)}'
    return f'{pip_command()} --force-reinstall {both} --index-url {_WHEELS}cu130 && {cure_for("mmcv", facts, again=True)}'


def _pinned(item: str, facts: Facts) -> str:
    """What pip is asked for: the version of the tests, except that some of them exist from Python 3.11 on alone."""
    name, version = pin_of(item, facts)
    old_python = version_numbers(facts['python']['version']) < (3, 11) and not item.startswith('mm')
    return name if old_python or not version else f'{name}=={version}'


def _torchvision(facts: Facts) -> str:
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
