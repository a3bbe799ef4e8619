#!/usr/bin/env bash
# One would expect each object to belong to one of COCO's sizes: small below 32 x 32 pixels, medium from
# there to 96 x 96, large above.
# In pycocotools 2.0.11 both ends of each range belong to it. An object with an area of exactly 32**2 counts
# in APs and in APm, and one of 96**2 in APm and in APl. hotcoco 1.3.0, faster-coco-eval 1.8.0 and vernier
# 0.5.4 do the same. Seen on 2026-11-27.
# It matters for made-up data and for tools with a fixed box size (32, 96), where "small" and "medium" are
# then scores of the same objects, and the counts by size do not add up to the number of objects.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check \
    pycocotools==2.0.11 faster-coco-eval==1.8.0 hotcoco==1.3.0 vernier==0.5.4

cat > check.py <<'PYTHON'
import contextlib
import io
import json

import faster_coco_eval
import hotcoco
import pycocotools.coco
import pycocotools.cocoeval
import vernier

EVALUATORS = {
    "pycocotools": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    "hotcoco": (hotcoco.COCO, hotcoco.COCOeval),
    "vernier": (pycocotools.coco.COCO, vernier.COCOeval),
}


def sizes(tool, side):
    """Return the sizes for which the evaluator has a score, given one object of side x side."""
    box = [10, 10, side, side]
    truth = {
        "info": {},
        "images": [{"id": 1, "file_name": "1.jpg", "width": 200, "height": 200}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": side * side,
             "iscrowd": 0}
        ],
    }
    with open("truth.json", "w") as file:
        json.dump(truth, file)
    with open("found.json", "w") as file:
        json.dump([{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9}], file)
    coco, evaluator = EVALUATORS[tool]
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco("truth.json")
        evaluation = evaluator(dataset, dataset.loadRes("found.json"), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("small", "medium", "large")
    return [name for name, ap in zip(names, evaluation.stats[3:6], strict=True) if ap >= 0]


for tool in EVALUATORS:
    print(tool, {side: " and ".join(sizes(tool, side)) for side in (31, 32, 33, 95, 96, 97)})
PYTHON

env/bin/python check.py > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
pycocotools {31: 'small', 32: 'small and medium', 33: 'medium', 95: 'medium', 96: 'medium and large', 97: 'large'}
faster-coco-eval {31: 'small', 32: 'small and medium', 33: 'medium', 95: 'medium', 96: 'medium and large', 97: 'large'}
hotcoco {31: 'small', 32: 'small and medium', 33: 'medium', 95: 'medium', 96: 'medium and large', 97: 'large'}
vernier {31: 'small', 32: 'small and medium', 33: 'medium', 95: 'medium', 96: 'medium and large', 97: 'large'}
SEEN
