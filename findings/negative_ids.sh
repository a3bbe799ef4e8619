#!/usr/bin/env bash
# One would expect two evaluators of COCO detections to agree on a file whose annotation ids are
# distinct integers, and to complain where they cannot use an id.
# faster-coco-eval 1.8.0 does not count an object as found if its annotation id is negative, or 2**63 or
# more, as in 64-bit hashes. Perfect detections score AP 0 on such files, without a message, although it does
# warn about id 0. pycocotools 2.0.11 gives 100 on the same files. Seen on 2026-11-27.
# It matters because ids made from hashes are common, and AP 0 looks like a model that learned nothing.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check pycocotools==2.0.11 faster-coco-eval==1.8.0

cat > check.py <<'PYTHON'
import contextlib
import io
import json

import faster_coco_eval
import pycocotools.coco
import pycocotools.cocoeval

BOXES = [[10, 10, 50, 40], [80, 80, 60, 60], [100, 10, 30, 30]]
EVALUATORS = {
    "pycocotools": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
}


def perfect_ap(tool, first):
    truth = {
        "info": {},
        "images": [
            {"id": i + 1, "file_name": f"{i}.jpg", "width": 200, "height": 200}
            for i in range(3)
        ],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": first + i, "image_id": i + 1, "category_id": 1,
             "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, box in enumerate(BOXES)
        ],
    }
    found = [
        {"image_id": i + 1, "category_id": 1, "bbox": box, "score": 0.9}
        for i, box in enumerate(BOXES)
    ]
    with open("truth.json", "w") as file:
        json.dump(truth, file)
    coco, evaluator = EVALUATORS[tool]
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco("truth.json")
        evaluation = evaluator(dataset, dataset.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0]


for name, first in (("from 1", 1), ("-3, -2, -1", -3), ("from 2**63", 2**63)):
    for tool in EVALUATORS:
        print(f"annotation ids {name}: {tool} AP {perfect_ap(tool, first):.1f}")
PYTHON

env/bin/python check.py > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
annotation ids from 1: pycocotools AP 100.0
annotation ids from 1: faster-coco-eval AP 100.0
annotation ids -3, -2, -1: pycocotools AP 100.0
annotation ids -3, -2, -1: faster-coco-eval AP 0.0
annotation ids from 2**63: pycocotools AP 100.0
annotation ids from 2**63: faster-coco-eval AP 0.0
SEEN
