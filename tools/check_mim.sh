#!/usr/bin/env bash
# Shows that a wheel of this repository works with mim: bash tools/check_mim.sh [FOLDER]
# In FOLDER, by default .mim_env, it makes an environment of its own, builds the source distribution and from it the wheel,
# installs that, trains and tests a config on a few drawn shapes by mim, outside the clone, and installs the source by mim.
# Run it again: what is installed is kept, all else is done anew. It takes some minutes, and prints what worked.
set -euo pipefail
root="$(cd "$(dirname "$0")/.." && pwd)"
folder="$(mkdir -p "${1:-$root/.mim_env}" && cd "${1:-$root/.mim_env}" && pwd)"
python="$folder/env/bin/python"
work="$folder/work"
config=maskrcnn_glit_t_shapes.py
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

works() {  # what, command: run it in the work folder; its output is shown if it fails
    echo "== $1"
    (cd "$work" && "${@:2}") > "$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; echo "FAILED: $1" >&2; exit 1; }
}
mim() { "$folder/env/bin/mim" "$@"; }

rm -rf "$work" && mkdir "$work"
if [ ! -x "$python" ]; then
    base="$(command -v python3.11 || command -v python3)"
    "$base" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
        echo "Python 3.11 is needed, and $base is $("$base" -V 2>&1 | cut -d' ' -f2); install python3.11" >&2
        exit 1
    }
    "$base" -m venv "$folder/env"
fi

works 'setuptools and torch' "$python" -m pip install -r "$root/requirements/build.txt"
# without its dependencies: one of them, which only fetches data sets, wants setuptools 60
works 'mim' "$python" -m pip install --no-deps openmim==0.3.9
works 'what mim imports' "$python" -m pip install -c "$root/requirements/stack.txt" \
    click colorama model-index pandas requests rich tabulate

build() {
    cp -r "$root"/{hybrid_mm,configs,tools,requirements,setup.py,pyproject.toml,MANIFEST.in,model-index.yml,README.md,LICENSE} .
    "$python" setup.py -q sdist --dist-dir ../dist
}
mkdir "$work/clone"
works 'source distribution' bash -c "$(declare -f build); root='$root' python='$python'; cd clone; build"
works 'wheel from it' "$python" -m pip wheel --no-deps --no-build-isolation --wheel-dir dist "$work"/dist/hybrid_mm-*.tar.gz
works 'wheel installed, with MMDetection, MMSegmentation and MMPreTrain' \
    env PATH="$folder/env/bin:$PATH" MMCV_WITH_OPS=1 "$python" -m pip install --no-build-isolation \
    -c "$root/requirements/stack.txt" "$(echo "$work"/dist/*.whl)[all]"
works 'that wheel and no older one' "$python" -m pip install --no-deps --force-reinstall "$work"/dist/*.whl

works 'mim run: draw shapes' mim run hybrid_mm make_shapes --train 8 --val 4 --size 64 64
works 'mim train' mim train hybrid_mm "$config" --work-dir trained \
    --cfg-options train_cfg.max_epochs=1 train_cfg.val_interval=1 default_hooks.checkpoint.interval=1
works 'mim test' mim test hybrid_mm "$config" --checkpoint trained/epoch_1.pth --work-dir tested
works 'mim run: get_flops' mim run hybrid_mm get_flops \
    "$(cd "$work" && "$python" -c "import hybrid_mm; print(hybrid_mm.config_path('$config'))")"
works 'each config once, for mim goes by file names' \
    bash -c "[ \"\$(find '$folder'/env/lib -path '*/hybrid_mm/*' -name maskrcnn_transcnn_b.py | wc -l)\" = 1 ]"
works 'mim search' mim search hybrid_mm --config imagenet_transcnn_s
works 'source unpacked' bash -c 'mkdir source && tar -xzf dist/*.tar.gz --strip-components 1 -C source'
works 'wheel removed' "$python" -m pip uninstall -y hybrid_mm
works 'mim install .' bash -c "cd source && '$folder/env/bin/mim' install ."
works 'mim finds what it installed' mim search hybrid_mm --config imagenet_glit_t
works 'wheel removed' "$python" -m pip uninstall -y hybrid_mm
works 'pip install .' bash -c "cd source && '$python' -m pip install ."
works 'config found' "$python" -c "import hybrid_mm; assert '.mim' in hybrid_mm.config_path('$config')"
echo "mim works with $(ls "$work/dist" | tr '\n' ' ')"
