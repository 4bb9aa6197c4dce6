#!/usr/bin/env bash
# Trains on several GPUs, or in several processes on a machine without a GPU:
#     bash tools/dist_train.sh CONFIG GPUS [--max-restarts N] [options of train.py]
# On several machines set NNODES, NODE_RANK, MASTER_ADDR and PORT, as for torchrun. Where a process dies, all start again from the
# newest checkpoint, up to N times, by default never. SIGTERM and SIGUSR1 end the training behind its step, with status 75.
set -euo pipefail
if ! [[ ${2:-} =~ ^[1-9][0-9]*$ ]]; then
    echo "Error: give a config and a number of processes:" \
         "bash tools/dist_train.sh CONFIG GPUS [--max-restarts N] [options of train.py]" >&2
    exit 1
fi
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
command=("$tools/train.py" "$1" --launcher pytorch)
meeting=(--node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}")
processes="$2"
restarts=0
shift 2
while [ $# -gt 0 ]; do
    case "$1" in
        --max-restarts=*) restarts="${1#*=}" ;;
        --max-restarts) restarts="${2:-}" && shift ;;
        *) command+=("$1") ;;
    esac
    shift || true
done
if [ "$restarts" != 0 ]; then
    # otherwise the processes of a second start find the addresses of those of the first
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    meeting=(--max-restarts="$restarts" --rdzv-backend=c10d --rdzv-endpoint="${MASTER_ADDR:-127.0.0.1}:${PORT:-29500}")
    [ "${NNODES:-1}" != 1 ] || meeting+=(--local-addr=127.0.0.1)
fi

# torchrun gives each process one thread; without a GPU they share the cores.
if [ -z "${OMP_NUM_THREADS:-}" ] && ! command -v nvidia-smi > /dev/null; then
    threads=$(($(getconf _NPROCESSORS_ONLN) / processes))
    export OMP_NUM_THREADS=$((threads > 0 ? threads : 1))
fi

# The processes get SIGTERM and SIGUSR1 without torchrun, which would kill them after 30 seconds. They leave a note.
folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
export HYBRID_MM_INTERRUPTED="$folder/signal"
set -m  # a process group of its own, which signals to the group of this script do not reach
(trap '' USR1 && exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --nproc_per_node="$processes" "${meeting[@]}" "${command[@]}") &
torchrun=$!
for name in TERM USR1; do  # torchrun itself gets them as long as it has no processes; it ignores SIGUSR1
    trap "told=1; kill -s $name \$(cat /proc/$torchrun/task/*/children) 2> /dev/null || kill -s $name $torchrun || true" "$name"
done
for name in INT HUP QUIT; do trap "told=1; kill -s $name $torchrun || true" "$name"; done
while told=; wait "$torchrun" && status=0 || status=$?; [ -n "$told" ]; do :; done  # a signal ends the wait early
[ ! -e "$HYBRID_MM_INTERRUPTED" ] || exit 75
exit "$status"
