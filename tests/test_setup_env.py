"""What tools/setup_env.sh installs, and when, with an interpreter that only writes down what it is asked for."""
import os
import subprocess

import pytest

# a Python 3.11 in which a module is found once the list that has it is installed
PYTHON = '''#!/usr/bin/env bash
here="$(cd "$(dirname "$0")" && pwd)"
case "$1 $2 $3" in
    "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    "-m pip "*) echo "$*" >> "$here/installed" ;;
    "-c import sys"*) [ "$VERSION" = 3.11 ] ;;
    "-c import importlib"*)
        for module in "${@:3}"; do
            case "$module" in
                pytest|faiss|onnx|ruff|mkdocs) list=tests.txt ;;
                pytorch_grad_cam) list=no_deps.txt ;;
                *) list=stack.txt ;;
            esac
            grep -q "$list" "$here/installed" 2> /dev/null || exit 1
        done ;;
    "-V "*) echo "Python $VERSION" ;;
    *) exit 2 ;;
esac
'''


@pytest.fixture
def clone(root, tmp_path):
    """A clone with setup_env.sh alone, and a folder `bin` with the interpreter."""
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'tools' / 'setup_env.sh').write_text((root / 'tools' / 'setup_env.sh').read_text())
    python = tmp_path / 'bin' / 'python3.11'
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def set_up(clone, version='3.11', **variables):
    """Source the file; what it prints, with the interpreter that it chose on the last line."""
    path = f'{clone / "bin"}:{os.defpath}'
    environ = dict(PATH=path, VERSION=version, PYTHON=str(clone / 'bin' / 'none'), **variables)
    return subprocess.run(['bash', '-euo', 'pipefail', '-c', f'source {clone}/tools/setup_env.sh; echo "$PYTHON"'],
                          capture_output=True, text=True, check=False, env=environ)


def installed(clone):
    """The lists that have been installed into .venv, one line for each call of pip."""
    path = clone / '.venv' / 'bin' / 'installed'
    return [[name for name in ('build', 'stack', 'tests', 'docs', 'no_deps') if f'{name}.txt' in line]
            for line in path.read_text().splitlines()]


def test_quickstart_installs_the_stack_and_nothing_of_the_tests(clone):
    done = set_up(clone)
    assert done.returncode == 0, done.stderr
    assert installed(clone) == [['build'], ['stack']]
    assert 'requirements/stack.txt into .venv' in done.stdout
    assert done.stdout.splitlines()[-1] == str(clone / '.venv' / 'bin' / 'python')


def test_tests_install_their_own_list_on_top_and_nothing_is_done_twice(clone):
    set_up(clone)
    assert set_up(clone, WITH_TESTS='1').returncode == 0
    assert installed(clone) == [['build'], ['stack'], ['build'], ['stack', 'tests'], ['no_deps']]
    for variables in ({}, dict(WITH_TESTS='1')):
        again = set_up(clone, **variables)
        assert again.returncode == 0 and 'Installing' not in again.stdout
    assert len(installed(clone)) == 5


def test_active_environment_is_used_as_it_is_if_it_has_what_is_needed(clone):
    (clone / 'bin' / 'installed').write_text('stack.txt\n')
    active = dict(PYTHON=str(clone / 'bin' / 'python3.11'))
    done = subprocess.run(['bash', '-euo', 'pipefail', '-c', f'source {clone}/tools/setup_env.sh; echo "$PYTHON"'],
                          capture_output=True, text=True, check=True, env=dict(active, PATH=os.defpath, VERSION='3.11'))
    assert done.stdout.splitlines()[-1] == active['PYTHON'] and not (clone / '.venv').exists()


def test_wrong_python_is_one_sentence(clone):
    done = set_up(clone, version='3.9')
    assert done.returncode == 1 and not (clone / '.venv').exists()
    assert done.stderr.strip().startswith('Python 3.11 is needed, and ') and done.stderr.count('\n') == 1


def test_lists_do_not_overlap_and_the_tools_names_are_there(root):
    def names(name):
        lines = (root / 'requirements' / name).read_text().splitlines()
        return {line.split('==')[0] for line in lines if line and not line.startswith(('#', '-'))}

    stack, tests, docs = names('stack.txt'), names('tests.txt'), names('docs.txt')
    assert not stack & tests and not stack & docs and not tests & docs
    assert {'pytest', 'faiss-cpu', 'pot', 'triton', 'onnx', 'ruff', 'mypy'} <= tests
