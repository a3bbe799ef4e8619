#!/usr/bin/env bash
# One would expect AP not to depend on how the images of a data set are numbered, and two detections with
# the same score to be taken in the order of the results file, since the evaluators sort with a stable sort.
# pycocotools 2.0.11 sorts the detections of each image first and then joins the images by ascending id.
# Among equal scores the image with the smaller id comes first, whatever the order in the file. The same
# two detections below score AP 100 or 50, depending only on which of the images is called 1 and which 2.
# faster-coco-eval 1.8.0, hotcoco 1.3.0 and vernier 0.5.4 do the same. Seen on 2026-11-27.
# It matters for 8-bit and 16-bit models, whose scores have few distinct values: renumbering or splitting
# a validation set changes AP although neither the model nor an image has changed.
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
OBJECT, BACKGROUND = [10, 10, 50, 50], [120, 120, 40, 40]


def ap(tool, full, empty, right_first):
    """Score a right detection in image `full` and a wrong one in image `empty`, both with 0.5."""
    truth = {
        "info": {},
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 200} for i in (1, 2)
        ],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": full, "category_id": 1, "bbox": OBJECT, "area": 2500,
             "iscrowd": 0}
        ],
    }
    found = [
        {"image_id": full, "category_id": 1, "bbox": OBJECT, "score": 0.5},
        {"image_id": empty, "category_id": 1, "bbox": BACKGROUND, "score": 0.5},
    ]
    with open("truth.json", "w") as file:
        json.dump(truth, file)
    with open("found.json", "w") as file:
        json.dump(found if right_first else found[::-1], file)
    coco, evaluator = EVALUATORS[tool]
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco("truth.json")
        evaluation = evaluator(dataset, dataset.loadRes("found.json"), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return f"{100 * evaluation.stats[0]:.0f}"


for tool in EVALUATORS:
    for full, empty in ((1, 2), (2, 1)):
        scores = [ap(tool, full, empty, right_first) for right_first in (True, False)]
        print(f"{tool}, object in image {full}: AP {scores[0]}, with the file reversed {scores[1]}")
PYTHON

env/bin/python check.py > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
pycocotools, object in image 1: AP 100, with the file reversed 100
pycocotools, object in image 2: AP 50, with the file reversed 50
faster-coco-eval, object in image 1: AP 100, with the file reversed 100
faster-coco-eval, object in image 2: AP 50, with the file reversed 50
hotcoco, object in image 1: AP 100, with the file reversed 100
hotcoco, object in image 2: AP 50, with the file reversed 50
vernier, object in image 1: AP 100, with the file reversed 100
vernier, object in image 2: AP 50, with the file reversed 50
SEEN
