#!/usr/bin/env bash
# Measure the COCO AP of FreeAnchor R-50 on val2017, in FP16, 32 images of 800x1344 at once.
# infer_freeanchor_fp16.sh lists the variables of the environment that it reads.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
. "$ROOT/scripts/infer_freeanchor_fp16.sh"
infer accuracy "$@"
