#!/usr/bin/env bash
# Trains on a slurm cluster:
#     [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 WARNING=120 SRUN_ARGS=...] \
#     bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]
# WARNING seconds before the time of the job is over slurm sends SIGUSR1, on which the training saves, and begins again by itself
# where it was: in a batch job, which takes `sbatch --signal=USR1@120`, as slurm requeues it, and else in the next job. SIGTERM, of
# scancel or of a preemption, after which slurm itself requeues what may be, ends the training behind its step, with status 75.
set -euo pipefail
if [ $# -lt 4 ]; then
    echo "Error: give four arguments:" \
         "bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of train.py]" >&2
    exit 1
fi
tools="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "$4"
HYBRID_MM_INTERRUPTED="$(cd "$4" && pwd)/.interrupted"  # the processes write the name of the signal into it
export HYBRID_MM_INTERRUPTED
resume=()

set -m  # srun gets the signals from here
while rm -f "$HYBRID_MM_INTERRUPTED"; do
    # SRUN_ARGS holds several arguments, so it is not quoted
    srun --partition="$1" --job-name="$2" --signal="USR1@${WARNING:-120}" \
        --gres="gpu:${GPUS_PER_NODE:-8}" --ntasks="${GPUS:-8}" --ntasks-per-node="${GPUS_PER_NODE:-8}" \
        --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
        "${PYTHON:-python}" -u "$tools/train.py" "$3" --work-dir "$4" --launcher slurm "${@:5}" ${resume[@]+"${resume[@]}"} \
        < /dev/null &
    srun=$!
    for name in TERM USR1 INT HUP QUIT; do trap "told=1; kill -s $name $srun || true" "$name"; done
    while told=; wait "$srun" && status=0 || status=$?; [ -n "$told" ]; do :; done  # a signal ends the wait early
    [ -e "$HYBRID_MM_INTERRUPTED" ] || exit "$status"
    [ "$(cat "$HYBRID_MM_INTERRUPTED")" = SIGUSR1 ] || exit 75
    if [ -n "${SLURM_JOB_ID:-}" ] && scontrol requeue "$SLURM_JOB_ID"; then exit 75; fi  # a batch job alone can be requeued
    resume=(--resume)
done
