"""Collecting facts about an environment, such as a version or an exception, in a process of their own."""
import json
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from hybrid_mm.errors import first_line

from .items import ALSO, DISTRIBUTIONS, FORKS, NEEDS, Facts, works
from .probes import probe

_TIME_LIMIT = 600  # seconds for all imports; a slow network disk can take a minute or two


def collect_facts(items: Sequence[str], known: Optional[Facts] = None) -> Facts:
    """Try each item in another process of this interpreter.

    Args:
        items: keys of `NEEDS`.
        known: facts of other items, which are not tried again.

    Returns:
        One dict of facts an item, those that are known first. All have ``found``, whether the module is there, and ``version``
        (or None). Where it does not work they have ``error`` (``type``, ``message`` and ``missing``, the module that was not
        found, or None), or ``untried``, the item that has to be mended first. The others are those of the functions in `probes`.
    """
    facts = dict(known or {})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'facts'
        while any(item not in facts for item in items):  # once, and once more each time an import ends the interpreter
            path.write_text('')
            todo = [item for item in items if item not in facts]
            end = _run_probes(path, todo, facts)
            for line in path.read_text().splitlines():
                facts.update(json.loads(line))
            lost = [item for item in todo if item not in facts]
            if lost:
                facts[lost[0]] = dict(found=True, version=None, error=dict(type='', message=end, missing=None))
    return facts


def _run_probes(path: Path, items: List[str], facts: Facts) -> str:
    """Run `write_facts` in another process; returns how that ended, in words."""
    code = ('import json, sys; root, *arguments = json.loads(sys.argv[1]); '
            # not the current folder, which python -c adds: its modules could be taken for libraries
            'sys.path = [root] + [folder for folder in sys.path if folder]; '
            'from hybrid_mm.environment.facts import write_facts; write_facts(*arguments)')
    arguments = json.dumps([str(Path(__file__).resolve().parents[2]), str(path), items, facts])
    try:
        done = subprocess.run([sys.executable, '-c', code, arguments], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=_TIME_LIMIT)
    except subprocess.TimeoutExpired:
        return f'the import does not end within {_TIME_LIMIT} seconds'
    if done.returncode < 0:
        return f'the import ends the interpreter with signal {signal.Signals(-done.returncode).name}'
    last = done.stderr.decode(errors='replace').strip().splitlines()[-1:]
    return f'the import ends the interpreter with status {done.returncode}' + ''.join(f': {line}' for line in last)


def write_facts(path: str, items: Sequence[str], facts: Facts) -> None:
    """Try the items and write a line of JSON after each one, so that a sudden end loses nothing."""
    warnings.simplefilter('ignore')
    for item in items:
        facts = {**facts, item: _facts_of(item, facts)}
        with open(path, 'a') as file:
            file.write(json.dumps({item: facts[item]}) + '\n')


def _facts_of(item: str, facts: Facts) -> Dict[str, Any]:
    if item not in ('python', 'setuptools', 'gpu') and _spec(item) is None:
        return dict(found=False, version=None)
    result: Dict[str, Any] = dict(found=True, version=_written_version(item))
    blocking = [need for need in NEEDS[item] if not works(facts.get(need))]
    blocking += [other for other in ALSO.get(item, ()) if facts.get(other, {}).get('found') and 'error' in facts[other]]
    if blocking:
        return dict(result, untried=facts.get(blocking[0], {}).get('untried', blocking[0]))
    try:
        result.update(probe(item, facts))
    except BaseException as error:  # libraries raise all kinds on import, SystemExit too
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        result['error'] = dict(type=type(error).__name__, message=first_line(error), missing=missing)
        # the libraries assert a range of mmcv's versions when they are imported; their messages do not always tell the bound
        if isinstance(error, AssertionError) and 'mmcv' in str(error).lower():
            source = _source(item, '__init__.py')
            bound = re.search(r"^(?:mmcv_maximum_version|MMCV_MAX)\s*=\s*['\"]([^'\"]+)", source, re.MULTILINE)
            result['bound'] = bound.group(1) if bound else None
    return result


def _spec(module: str) -> Any:
    with suppress(Exception):  # of a finder that is a strange one
        return find_spec(module)


def _source(module: str, file: str) -> str:
    paths = [Path(folder) / file for folder in getattr(_spec(module), 'submodule_search_locations', None) or []]
    return ''.join(path.read_text(errors='replace') for path in paths if path.is_file())


def _written_version(module: str) -> Optional[str]:
    """Version of a module that need not import, as its files or its distribution have it."""
    text = _source(module, 'version.py') + _source(module, '__init__.py')
    match = re.search(r'''^__version__(?:\s*:\s*\w+)?\s*=\s*['"]([^'"]+)''', text, re.MULTILINE)
    if match:
        return match.group(1)
    for distribution in (DISTRIBUTIONS.get(module, module), *FORKS.get(module, ())[:1]):
        with suppress(Exception):  # Python 3.7, or PackageNotFoundError
            return import_module('importlib.metadata').version(distribution)
    return None
