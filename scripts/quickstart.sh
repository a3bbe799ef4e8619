#!/usr/bin/env bash
# From nothing to a trained detector and a picture of what it finds: environment, embedded data,
# training, evaluation, drawing. What is done already is skipped; remove OUTPUT to train again.
set -uo pipefail
cd "$(dirname "$0")/.."
. scripts/setup_env.sh

EXPERIMENT=playground/atss.res18.shapes
OUTPUT=$PWD/$EXPERIMENT/output
PICTURE=$OUTPUT/detections.png

# step NAME COMMAND...: run it; on failure say which step it was and stop.
step() {
    local name=$1 status
    shift
    echo "==> $name"
    "$@"
    status=$?
    if [ $status -ne 0 ]; then
        echo "quickstart: the step '$name' failed (exit status $status); the reason is above." >&2
        echo "            When it is mended, run this script again: finished steps are skipped." >&2
        exit $status
    fi
}

in_experiment() { (cd "$EXPERIMENT" && "$VENV/bin/$1" "${@:2}"); }

train() {
    if [ -f "$OUTPUT/model_final.pth" ]; then
        echo "    already trained: $OUTPUT/model_final.pth"
    else
        echo "    about 7 minutes on 2 CPU cores; progress is written to $OUTPUT/log.txt too"
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
  pods_test                                        evaluate again
  pods_train SOLVER.LR_SCHEDULER.MAX_ITER 1000 OUTPUT_DIR output_longer
  pods_check                                       examine the data
  your own COCO-format data: README.md, "Train on your own data"
  read the paper in code: cvpods_ext/methods/atss/assign.py, loss.py""")
PY
