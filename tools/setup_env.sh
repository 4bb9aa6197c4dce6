# Sourced by quickstart.sh, and by run_tests.sh with WITH_TESTS=1: sets PYTHON to an interpreter that has the packages of
# requirements/stack.txt and, with WITH_TESTS=1, those of tests.txt. An active environment that has them is used as it is;
# otherwise .venv is made and filled, which skips what is there. mmcv is compiled with its operators; pip keeps the wheel in its
# cache, so only the first time takes minutes.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
lists=(stack.txt)
modules=(torch mmengine mmcv._ext mmdet mmseg mmpretrain torchvision pycocotools ftfy)
if [ "${WITH_TESTS:-}" = 1 ]; then
    lists+=(tests.txt)
    modules+=(pytest xdist faiss ot triton modelindex sklearn ttach pytorch_grad_cam onnx onnxscript onnxruntime ruff mypy mkdocs
              material mkdocstrings mkdocstrings_handlers.python)
fi

has_modules() {
    "$1" -c 'import importlib.util as util, sys; sys.exit(not all(util.find_spec(name) for name in sys.argv[1:]))' \
        "${modules[@]}" 2> /dev/null
}

if has_modules "${PYTHON:-python}"; then
    PYTHON="$(command -v "${PYTHON:-python}")"
    echo "Using the environment of $PYTHON, which has all that is needed."
else
    PYTHON="$ROOT/.venv/bin/python"
    if ! has_modules "$PYTHON"; then
        base="$(command -v python3.11 || command -v python3)"
        "$base" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
            echo "Python 3.11 is needed, and $base is $("$base" -V 2>&1 | cut -d' ' -f2); install python3.11, or activate an" \
                 "environment that has the packages of ${lists[*]/#/requirements/}" >&2
            exit 1
        }
        echo "Installing the packages of ${lists[*]/#/requirements/} into .venv; the first time mmcv is compiled, which takes" \
             "about ten minutes on two cores."
        [ -x "$PYTHON" ] || "$base" -m venv "$ROOT/.venv"
        "$PYTHON" -m pip install --quiet -r "$ROOT/requirements/build.txt"
        PATH="$ROOT/.venv/bin:$PATH" MMCV_WITH_OPS=1 \
            "$PYTHON" -m pip install --quiet --no-build-isolation "${lists[@]/#/-r$ROOT/requirements/}"
        [ "${WITH_TESTS:-}" != 1 ] ||
            "$PYTHON" -m pip install --quiet --no-build-isolation --no-deps -r "$ROOT/requirements/no_deps.txt"
        has_modules "$PYTHON" || { echo "The stack in .venv is incomplete; remove .venv and run this again" >&2; exit 1; }
    fi
fi
export PYTHON
cd "$ROOT"
