#!/usr/bin/env bash
# Trains on several GPUs, or in several processes on a machine without a GPU:
#     bash tools/dist_train.sh CONFIG GPUS [options of train.py]
# On several machines set NNODES, NODE_RANK, MASTER_ADDR and PORT, as for torchrun.
set -euo pipefail
if ! [[ ${2:-} =~ ^[1-9][0-9]*$ ]]; then
    echo "Error: give a config and a number of processes:" \
         "bash tools/dist_train.sh CONFIG GPUS [options of train.py]" >&2
    exit 1
fi
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# torchrun gives each process one thread; without a GPU they share the cores.
if [ -z "${OMP_NUM_THREADS:-}" ] && ! command -v nvidia-smi > /dev/null; then
    threads=$(($(getconf _NPROCESSORS_ONLN) / $2))
    export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
fi

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$2" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    "$tools/train.py" "$1" --launcher pytorch "${@:3}"
