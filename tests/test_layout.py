"""The rooms of the house: which may use which, and what each may hold."""
import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / 'hybrid_mm'
FILES = sorted(PACKAGE.rglob('*.py'))

# From the ground up; a room uses those below it. What is in one tuple does not use each other.
ORDER = [
    ('version', 'errors', 'output', 'progress', 'paths', 'processes', 'compat', 'environment'),
    ('registry', 'networks', 'failures', 'names'),
    ('layers', ),
    ('backbones', ),
    ('necks', 'plugins'),
    ('data', 'evaluation'),
    ('checkpoints', ),
    ('engine', ),
    ('inference', ),
    ('analysis', ),
    ('search', 'deploy'),
    ('commands', ),
]
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
NEIGHBOURS = {('environment', 'errors'), ('output', 'errors')}  # within a level, one way


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(name):
    """Modules of the package that a module imports anywhere, also inside of functions."""
    path = MODULES[name]
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split('.')[:len(package.split('.')) + 1 - node.level] if node.level else []
            module = '.'.join([*base, *([node.module] if node.module else [])])
            names = [f'{module}.{alias.name}' for alias in node.names]
        else:
            continue
        for target in names:
            while target and target not in MODULES:
                target = target.rpartition('.')[0]
            if target.startswith('hybrid_mm.') and target != name:
                yield target


def room(name):
    return name.split('.')[1]


def test_no_import_runs_upwards():
    upwards = [f'{name} imports {target}' for name in MODULES if name != 'hybrid_mm' for target in imports(name)
               if room(name) != room(target) and LEVELS[room(target)] >= LEVELS[room(name)]
               and (room(name), room(target)) not in NEIGHBOURS]
    assert not upwards


def test_no_imports_run_in_circles():
    graph = {name: set(imports(name)) for name in MODULES}
    done, circles = set(), []

    def visit(name, path):
        if name in path:
            circles.append(' > '.join([*path[path.index(name):], name]))
        elif name not in done:
            for target in sorted(graph[name]):
                # a package's list of names imports its modules, which may import each other through it
                if not name.startswith(f'{target}.'):
                    visit(target, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])
    assert not circles


def test_layers_need_torch_alone():
    other = [f'{path.name} imports {found}' for path in (PACKAGE / 'layers').rglob('*.py')
             for found in re.findall(r'^\s*(?:from|import) ([\w.]+)', path.read_text(), re.MULTILINE)
             if found.split('.')[0] in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'hybrid_mm')
             and not found.startswith('hybrid_mm.layers')]
    assert not other


def test_command_lines_and_prints_are_in_commands_alone():
    others = [path for path in FILES if 'commands' not in path.parts]
    assert not [str(path) for path in others if re.search(r'ArgumentParser|import argparse|from argparse', path.read_text())]
    printing = [str(path) for path in others if any(
        isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'print' for node in ast.walk(ast.parse(path.read_text())))]
    assert printing == [str(PACKAGE / 'progress.py')]


COMMANDS = sorted(path.stem for path in (PACKAGE / 'commands').glob('*.py')
                  if 'def parser()' in path.read_text())


def test_each_command_has_a_front_door_of_a_few_lines():
    doors = {re.search(r"main\('(\w+)'\)", path.read_text())[1]: path for path in (ROOT / 'tools').rglob('*.py')}
    assert sorted(doors) == COMMANDS
    assert all(name == path.stem for name, path in doors.items())
    assert not [path for path in doors.values() if len(path.read_text().splitlines()) > 10]


@pytest.mark.parametrize('old', ['inference.infer', 'deploy.export_onnx', 'environment.main'])
def test_commands_are_found_where_they_were(old, capsys):
    import importlib
    package, name = old.split('.')
    command = getattr(importlib.import_module(f'hybrid_mm.{package}'), name)
    with pytest.raises(SystemExit) as end:
        command(['--help'])
    assert end.value.code == 0 and 'usage:' in capsys.readouterr().out
