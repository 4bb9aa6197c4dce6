"""Style and types: ruff on the whole clone, mypy on the package, both as pyproject.toml says."""
import re
import subprocess
import sys

import pytest


def run(root, *words):
    done = subprocess.run([sys.executable, '-m', *words], capture_output=True, text=True, check=False, cwd=root)
    return done.returncode, done.stdout + done.stderr


def test_ruff_finds_nothing(root):
    status, output = run(root, 'ruff', 'check', '--output-format', 'concise')
    assert status == 0, output


def test_mypy_finds_nothing(root):
    status, output = run(root, 'mypy')
    assert status == 0, output


@pytest.mark.parametrize('tool, code, rule', [
    ('ruff', 'import os\n', 'F401'),
    ('ruff', 'names = ["a"]\n', 'Q000'),
    ('ruff', f'x = {"1 + " * 33}1\n', 'E501'),
    ('mypy', 'def half(n: int) -> int:\n    return n / 2\n', 'return-value'),
    ('mypy', 'def half(n):\n    return len(n) + "a"\n', 'operator'),
])
def test_they_find_what_they_are_for(tool, code, rule, root, tmp_path):
    """The settings do not switch off what matters."""
    (tmp_path / 'code.py').write_text(code)
    words = ['check', '--config', str(root / 'pyproject.toml'), '--no-cache'] if tool == 'ruff' else [
        '--config-file', str(root / 'pyproject.toml'), '--cache-dir', str(tmp_path / 'cache')]
    status, output = run(root, tool, *words, str(tmp_path / 'code.py'))
    assert status == 1 and rule in output, output


def test_hooks_of_pre_commit_have_the_versions_of_the_tests(root):
    pins = dict(re.findall(r'^(ruff|mypy)==(\S+)$', (root / 'requirements' / 'tests.txt').read_text(), re.MULTILINE))
    assert len(pins) == 2
    hooks = dict(re.findall(r'(ruff|mypy)==([\w.]+)', (root / '.pre-commit-config.yaml').read_text()))
    assert hooks == pins
