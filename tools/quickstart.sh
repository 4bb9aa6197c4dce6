#!/usr/bin/env bash
# From a bare machine to a trained network: sets the environment up, trains, evaluates the checkpoint and writes pictures of what
# was found; on drawn shapes, Mask R-CNN with TransCNN, or on a folder of your own, in COCO's layout or with pictures and label
# maps. Run it again: what is done is skipped.
#     bash tools/quickstart.sh [--data FOLDER [--minutes N] [--network NAME] [--checkpoint FILE]]
set -euo pipefail

usage='usage: bash tools/quickstart.sh [--data FOLDER [--minutes N] [--network NAME] [--checkpoint FILE]]'
data=
options=()
while [ $# -gt 0 ]; do
    case "$1" in
        --data|--minutes|--network|--checkpoint)
            [ $# -gt 1 ] && [ -n "$2" ] || { echo "Error: $1 needs a value; $usage" >&2; exit 2; }
            value="$2"
            case "$1" in
                --data) [ -d "$2" ] || { echo "Error: --data $2 is no folder; give one with your data" >&2; exit 1; }
                        data="$(cd -- "$2" && pwd)" ;;
                --checkpoint) case "$2" in /*) ;; *) value="$PWD/$2" ;; esac; options+=("$1" "$value") ;;
                *) options+=("$1" "$value") ;;
            esac
            shift 2 ;;
        *) echo "Error: unknown option $1; $usage" >&2; exit 2 ;;
    esac
done
[ -n "$data" ] || [ ${#options[@]} -eq 0 ] || { echo "Error: ${options[0]} needs --data FOLDER; $usage" >&2; exit 2; }

source "$(dirname "$0")/setup_env.sh"

pictures=pictures
training=()
report=()
if [ -n "$data" ]; then
    name="$(basename "$data")"
    name="${name//[^[:alnum:]]/_}"
    work="work_dirs/quickstart_$name"
    config="$work/config/$name.py"
    pictures="$ROOT/$work/pictures"
    # the evaluation follows, so that the training needs none at its end
    training+=(--cfg-options val_dataloader=None val_cfg=None val_evaluator=None)
    report+=(--details)
else
    config=configs/shapes/maskrcnn_transcnn_s_shapes.py
    work=work_dirs/quickstart
fi

echo "== Data"
if [ -n "$data" ]; then
    "$PYTHON" tools/datasets/make_config.py "$data" --out "$config" ${options[@]+"${options[@]}"}
    # what the present config is for, and what the training in the work folder was for
    made="$work/config/${name}_data/made_from.json"
    [ ! -f "$work/made_from.json" ] || cmp -s "$made" "$work/made_from.json" || {
        echo "Error: $work holds a training on other data or with other options; remove it to train anew" >&2
        exit 1
    }
    cp "$made" "$work/made_from.json"
else
    "$PYTHON" tools/datasets/make_shapes.py
fi

echo "== Training"
if [ -f "$work/trained" ]; then
    echo "$work holds a trained model; remove the folder to train again."
else
    start=$SECONDS
    "$PYTHON" tools/train.py "$config" --work-dir "$work" --resume auto ${training[@]+"${training[@]}"}
    echo $((SECONDS - start)) > "$work/trained"
fi

echo "== Evaluation"
"$PYTHON" tools/test.py "$config" "$work/$(basename "$(cat "$work/last_checkpoint")")" --work-dir "$work/test" --show-dir "$pictures" \
    --show-at-most 30
"$PYTHON" tools/report.py "$work" ${report[@]+"${report[@]}"}
