#!/usr/bin/env bash
# From a bare machine to a trained detector: sets the environment up, draws the shapes data, trains Mask R-CNN with TransCNN
# on it, evaluates the checkpoint and writes pictures of what was found. Run it again: what is done is skipped.
set -euo pipefail
source "$(dirname "$0")/setup_env.sh"

config=configs/shapes/maskrcnn_transcnn_s_shapes.py
work=work_dirs/quickstart

echo "== Data"
"$PYTHON" tools/datasets/make_shapes.py

echo "== Training"
if [ -f "$work/trained" ]; then
    echo "$work holds a trained model; remove the folder to train again."
else
    start=$SECONDS
    "$PYTHON" tools/train.py "$config" --work-dir "$work" --resume auto
    echo $((SECONDS - start)) > "$work/trained"
fi

echo "== Evaluation"
"$PYTHON" tools/test.py "$config" "$work/$(basename "$(cat "$work/last_checkpoint")")" --work-dir "$work/test" --show-dir pictures
"$PYTHON" tools/report.py "$work"
