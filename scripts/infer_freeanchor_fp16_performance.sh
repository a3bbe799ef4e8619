#!/usr/bin/env bash
# Images per second of 100 timed runs: FreeAnchor R-50 in FP16, 32 images of 800x1344 at once.
# What it reads from the environment stands in infer_freeanchor_fp16.sh.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
. "$ROOT/scripts/infer_freeanchor_fp16.sh"
infer performance "$@"
