# Sourced by quickstart.sh and run_tests.sh: sets PYTHON to an interpreter that has the whole stack.
# An active environment that has it already is used as it is; otherwise .venv is made and filled, which skips what is there.
# mmcv is compiled with its operators; pip keeps the wheel in its cache, so only the first time takes minutes.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

has_stack() {
    "$1" - <<'PY' 2>/dev/null
import importlib.util as util, sys
needed = ('torch', 'mmengine', 'mmcv._ext', 'mmdet', 'mmseg', 'mmpretrain', 'torchvision', 'pycocotools', 'ftfy', 'pytest', 'xdist', 'faiss', 'ot',
          'triton', 'modelindex', 'sklearn', 'ttach', 'pytorch_grad_cam', 'onnx', 'onnxscript', 'onnxruntime')
sys.exit(not all(util.find_spec(name) for name in needed))
PY
}

if has_stack "${PYTHON:-python}"; then
    PYTHON="$(command -v "${PYTHON:-python}")"
else
    PYTHON="$ROOT/.venv/bin/python"
    if ! has_stack "$PYTHON"; then
        base="$(command -v python3.11 || command -v python3)"
        "$base" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
            echo "Python 3.11 is needed, and $base is $("$base" -V 2>&1 | cut -d' ' -f2); install python3.11, or activate an" \
                 "environment that has the packages of requirements/stack.txt" >&2
            exit 1
        }
        echo "Installing the stack into .venv; the first time mmcv is compiled, which takes about ten minutes on two cores."
        [ -x "$PYTHON" ] || "$base" -m venv "$ROOT/.venv"
        "$PYTHON" -m pip install --quiet -r "$ROOT/requirements/build.txt"
        PATH="$ROOT/.venv/bin:$PATH" MMCV_WITH_OPS=1 \
            "$PYTHON" -m pip install --quiet --no-build-isolation -r "$ROOT/requirements/stack.txt"
        "$PYTHON" -m pip install --quiet --no-build-isolation --no-deps -r "$ROOT/requirements/no_deps.txt"
        has_stack "$PYTHON" || { echo "The stack in .venv is incomplete; remove .venv and run this again" >&2; exit 1; }
    fi
fi
export PYTHON
cd "$ROOT"
