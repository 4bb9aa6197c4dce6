#!/usr/bin/env bash
# Everything that needs a GPU, in at most nine minutes; without a GPU the same parts run small on the CPU. README.md says how.
#
#     OUT=FOLDER bash benchmarks/gpu/run.sh
#
# Each part writes its JSON as it goes, ends at its limit at the latest, and leaves the others to run where it fails.
# LIMIT is of the whole, in seconds.
set -u

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.." || exit 1
out=${OUT:-$here/results}
python=${PYTHON:-python3}
limit=${LIMIT:-525}
failed=()
mkdir -p "$out"
export PYTHONUNBUFFERED=1

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if compgen -G "$here/wheels/*.whl" >/dev/null && [ -z "${NO_WHEELS:-}" ]; then
    site=$scratch/site
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" "$here"/wheels/*.whl ||
        { echo 'Error: the wheels cannot be installed; see above'; exit 1; }
    mkdir -p "$site/mmcv/ops" && cp "$here/mmcv_ops.py" "$site/mmcv/ops/__init__.py"
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
device=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")
import mmengine, mmcv') ||
    { echo 'Error: torch, mmengine or mmcv is not there, see above; run benchmarks/gpu/wheels.sh where there is a network, and' \
           'carry benchmarks/gpu/wheels'
      exit 1; }
echo "$device, installed after $SECONDS s"

# part NAME SECONDS COMMAND...: SECONDS at most, and no more than is left
part() {
    local name=$1 own=$2 left=$((limit - SECONDS)) status start=$SECONDS
    shift 2
    [ "$own" -le "$left" ] || own=$left
    if [ "$own" -lt 10 ]; then
        echo "== $name: no time was left"
        failed+=("$name")
        return
    fi
    echo "== $name, $own s at most"
    TIME_LEFT=$own timeout --kill-after=5 "$own" "$@" 2>&1 | tee -a "$out/log.txt"
    status=${PIPESTATUS[0]}
    case $status in
        0) echo "== $name: done after $((SECONDS - start)) s" ;;
        124 | 137) echo "== $name: stopped at its limit of $own s; its JSON has what was done" ;;
        *) echo "== $name: ended with status $status; see above" ;;
    esac
    [ "$status" = 0 ] || failed+=("$name")
}

if [ "$device" = cuda ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    speed=("$python" benchmarks/speed.py --device cuda --dtypes bf16 --no-plain)
    # while correctness takes its time, fill the cache of what is compiled, which takes a minute for each network
    export TORCHINDUCTOR_COMPILE_THREADS=2
    compiled=(swin_t transcnn_b hatnet_s setformer_t glit_s parc_convnext_t parc_r50 parc_mbv2 parcnet_s)
    for network in "${compiled[@]}"; do
        timeout --kill-after=5 170 "${speed[@]}" --sizes 224:16 --networks "$network" --compile --rounds 1 \
            --out "$scratch/$network.json" >/dev/null 2>&1 &
    done
    part correctness 170 "$python" benchmarks/gpu/correctness.py --device cuda --workers 3 --out "$out/correctness.json"
    wait
    unset TORCHINDUCTOR_COMPILE_THREADS
    part speed 130 "${speed[@]}" --sizes 224:16 800x1333:2 --rounds 9 --minutes 2 --out "$out/speed.json"
    part compiled 130 "${speed[@]}" --sizes 224:16 --networks "${compiled[@]}" --compile --rounds 9 --minutes 2 \
        --out "$out/speed.json"
    part real 45 "$python" benchmarks/gpu/real.py --device cuda --out "$out/real.json"
    part tests 120 "$python" -m pytest tests/cuda --ignore tests/cuda/test_search_cuda.py --tb=line --junitxml "$out/tests.xml"
else
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TRITON_INTERPRET=1
    part correctness 60 "$python" benchmarks/gpu/correctness.py --device cpu --small --out "$out/correctness.json"
    part speed 60 "$python" benchmarks/speed.py --device cpu --sizes 32:2 --dtypes bf16 --modes inference --networks parc_mbv2 \
        --no-plain --no-memory --rounds 2 --minutes 1 --out "$out/speed.json"
    part real 60 "$python" benchmarks/gpu/real.py --device cpu --small --out "$out/real.json"
fi
echo "== all after $SECONDS s${failed[*]:+; not whole: ${failed[*]}}; results in $out"
[ ${#failed[@]} = 0 ]
