#!/usr/bin/env bash
# Install the project, make a small data set, train a detector, evaluate it and draw its detections.
# Finished steps are skipped; remove the folder OUTPUT (below) to train again.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_env.sh

EXPERIMENT=playground/atss.res18.shapes
OUTPUT=$PWD/$EXPERIMENT/output
PICTURE=$OUTPUT/detections.png

# step NAME COMMAND...: run the command; if it fails, name the step and stop.
step() {
    local name=$1 status
    shift
    echo "==> $name"
    "$@"
    status=$?
    if [ $status -ne 0 ]; then
        echo "quickstart: the step '$name' failed (exit status $status); the reason is above." >&2
        echo "            Fix it and run this script again: finished steps are skipped." >&2
        exit $status
    fi
}

in_experiment() { (cd "$EXPERIMENT" && "$VENV/bin/$1" "${@:2}"); }

train() {
    if [ -f "$OUTPUT/model_final.pth" ]; then
        echo "    already trained: $OUTPUT/model_final.pth"
    else
        echo "    about 7 minutes on 2 CPU cores; $OUTPUT/log.txt shows the progress, too"
        in_experiment pods_train --resume OUTPUT_DIR "$OUTPUT"
    fi
}

evaluate() {
    if [ -f "$OUTPUT/inference/results.json" ]; then
        echo "    already evaluated: $OUTPUT/inference/results.md"
    else
        in_experiment pods_test OUTPUT_DIR "$OUTPUT"
    fi
}

step "install into .venv (once; several minutes, PyTorch is large)" ensure_environment
step "make the shapes data set" "$VENV/bin/python" datasets/make_shapes.py
step "train $EXPERIMENT" train
step "evaluate" evaluate
step "draw detections beside ground truth" \
    in_experiment pods_draw --score 0.5 --output "$PICTURE" OUTPUT_DIR "$OUTPUT"

"$VENV/bin/python" - "$OUTPUT/inference/results.json" "$PICTURE" <<'PY'
import json, sys

metrics = json.load(open(sys.argv[1]))["bbox"]
print(f"""
AP {metrics['AP']:.1f}, AP50 {metrics['AP50']:.1f} on 150 held-out images.
Picture: {sys.argv[2]}

Next:
  source .venv/bin/activate && cd playground/atss.res18.shapes
  pods_test                                        # evaluate again
  pods_check                                       # examine the data
  pods_train SOLVER.LR_SCHEDULER.MAX_ITER 1000 OUTPUT_DIR output_longer
Train on your own COCO-format data: README.md, "Train on your own data".
Read the method: cvpods_ext/methods/atss/assign.py and loss.py.""")
PY
