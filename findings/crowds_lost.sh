#!/usr/bin/env bash
# One would expect a library that reads COCO files and writes them again to keep "iscrowd", on which the
# COCO metric depends, and, if not, to say so.
# sahi 0.12.8 (Coco.from_coco_dict_or_path, used for slicing, merging, splitting and subsampling) and
# globox 2.9.0 (AnnotationSet.from_coco) write "iscrowd": 0 for each crowd region that they read. A crowd,
# which a detector may miss or cover with many boxes free of charge, becomes an ordinary object: on the
# file below the same detections fall from AP 100 to 50.5. supervision 0.31.2 keeps the value. Seen on
# 2026-11-27.
# It matters for COCO itself, where one annotation in a hundred is a crowd: a copy that was split or sliced
# is scored, and trained on, as another data set.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check \
    sahi==0.12.8 globox==2.9.0 supervision==0.31.2 pycocotools==2.0.11

cat > check.py <<'PYTHON'
import contextlib
import io
import json

import supervision
from globox import AnnotationSet
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sahi.utils.coco import Coco

SHEEP, FLOCK = [10, 10, 50, 50], [100, 100, 80, 40]


def annotation(number, box, crowd):
    return {"id": number, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3],
            "iscrowd": crowd, "segmentation": []}


def ap(path):
    found = [{"image_id": 1, "category_id": 1, "bbox": SHEEP, "score": 0.9}]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        for number, value in enumerate(truth.dataset["annotations"], start=1):
            value["id"] = number
        truth.dataset["info"] = {}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0]


def report(name, path):
    with open(path) as file:
        crowds = [value["iscrowd"] for value in json.load(file)["annotations"]]
    print(f"{name}: iscrowd {crowds}, AP {ap(path):.1f}")


Image.new("RGB", (200, 200)).save("a.jpg")
content = {
    "info": {},
    "images": [{"id": 1, "file_name": "a.jpg", "width": 200, "height": 200}],
    "annotations": [annotation(1, SHEEP, 0), annotation(2, FLOCK, 1)],
    "categories": [{"id": 1, "name": "sheep", "supercategory": "animal"}],
}
with open("original.json", "w") as file:
    json.dump(content, file)
report("original", "original.json")

with open("sahi.json", "w") as file:
    json.dump(Coco.from_coco_dict_or_path("original.json").json, file)
report("sahi", "sahi.json")

AnnotationSet.from_coco("original.json").save_coco("globox.json")
report("globox", "globox.json")

dataset = supervision.DetectionDataset.from_coco(".", "original.json")
dataset.as_coco(annotations_path="supervision.json")
report("supervision", "supervision.json")
PYTHON

env/bin/python check.py 2> errors.txt > seen.txt || { cat errors.txt >&2; exit 1; }
cat seen.txt
diff - seen.txt <<'SEEN'
original: iscrowd [0, 1], AP 100.0
sahi: iscrowd [0, 0], AP 50.5
globox: iscrowd [0, 0], AP 50.5
supervision: iscrowd [0, 1], AP 100.0
SEEN
