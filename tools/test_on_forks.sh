#!/usr/bin/env bash
# Runs the tests on the maintained forks (onedl-*), in .venv_forks, which it makes: bash tools/test_on_forks.sh [pytest options]
# onedl-mmcv is compiled with its operators; pip keeps the wheel in its cache, so only the first time takes minutes.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
python="$root/.venv_forks/bin/python"

if [ ! -x "$python" ]; then
    base="$(command -v python3.11 || command -v python3)"
    "$base" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
        echo "Python 3.11 is needed, and $base is $("$base" -V 2>&1 | cut -d' ' -f2); install python3.11" >&2
        exit 1
    }
    "$base" -m venv "$root/.venv_forks"
fi
"$python" -m pip show --quiet onedl-mmcv 2>/dev/null ||
    echo "Installing the forks into .venv_forks; the first time onedl-mmcv is compiled, which takes about ten minutes on two cores."
"$python" -m pip install --quiet -r "$root/requirements/build.txt"
# what stack.txt has beside upstream's libraries, which all begin with mm, and what the tests need
PATH="$root/.venv_forks/bin:$PATH" MMCV_WITH_OPS=1 "$python" -m pip install --quiet --no-build-isolation \
    -r "$root/requirements/forks.txt" -r <(grep -v '^mm' "$root/requirements/stack.txt") -r "$root/requirements/tests.txt"
"$python" -m pip install --quiet --no-build-isolation --no-deps -r "$root/requirements/no_deps.txt"
"$python" "$root/tools/check_env.py"

PYTHON="$python" exec bash "$root/tools/run_tests.sh" "$@"
