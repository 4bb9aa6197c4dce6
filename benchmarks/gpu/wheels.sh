#!/usr/bin/env bash
# Downloads the wheels that run.sh installs on a machine without a network, for Python 3.12 on Linux (x86-64), into
# benchmarks/gpu/wheels/, which git ignores: 7 MiB. The machine has torch, torchvision, Triton, NumPy, PyYAML, Matplotlib, rich,
# OpenCV, Pillow, packaging, einops, SciPy and pytest; name what else it lacks, such as
#
#     bash benchmarks/gpu/wheels.sh opencv-python-headless matplotlib
#
# mmcv-lite stands for mmcv, which has no wheel: MMPreTrain and, with mmcv_ops.py, MMSegmentation can be imported with it,
# MMDetection cannot. mmengine and MMPreTrain import pkg_resources, which setuptools has up to 81.
set -euo pipefail

folder=$(cd "$(dirname "$0")" && pwd)/wheels
most=60  # MiB, as a machine takes no more
packages=(
    mmengine==0.10.7 mmcv-lite==2.1.0 mmpretrain==1.2.0 mmsegmentation==1.2.2
    addict==2.4.0 termcolor yapf==0.43.0 platformdirs  # of mmengine
    modelindex ordered-set mat4py importlib-metadata  # of MMPreTrain
    ftfy wcwidth regex prettytable  # of MMSegmentation
    setuptools==80.10.2)
platforms=()
for version in 2_28 2_27 2_24 2_17; do
    platforms+=(--platform "manylinux_${version}_x86_64")
done

rm -rf "$folder"
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$folder" "${packages[@]}" "$@"
size=$(du -sm "$folder" | cut -f1)
if [ "$size" -gt $most ]; then
    echo "Error: the wheels have $size MiB, and at most $most can be carried; leave some of $* out" >&2
    exit 1
fi
echo "$(find "$folder" -name '*.whl' | wc -l) wheels, $size MiB, in $folder"
