#!/usr/bin/env bash
# One would expect a COCO file that datumaro reads and writes again to hold the same objects with the same
# classes under distinct annotation ids, also when its ids start at 0, as Label Studio and globox write them.
# datumaro 1.13.12 takes category id 0 for "no class" (it warns about that) and annotation id 0 for "no id"
# (it does not warn). Objects of class 0 are written with category_id 0, which the new file does not define,
# since its categories are numbered from 1. The object with id 0 gets the largest id in the file, which
# another object has already. The class has no objects left, and a metric that averages over classes leaves
# it out: a detector that finds the dogs and misses each cat scores AP 100 with pycocotools 2.0.11, and 50
# when the same file is numbered from 1. Seen on 2026-11-27.
# It matters because datumaro is a usual way between formats, and the loss of the first class shows nowhere.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check datumaro==1.13.12 pycocotools==2.0.11

cat > check.py <<'PYTHON'
import contextlib
import io
import json
import os

from datumaro import Dataset
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# (image, class, box), images and classes counted from 0
OBJECTS = [
    (0, 0, [10, 10, 30, 20]),
    (0, 1, [50, 40, 20, 30]),
    (1, 1, [5, 5, 20, 10]),
    (1, 0, [40, 30, 24, 18]),
]


def write(folder, first):
    os.makedirs(f"{folder}/annotations")
    os.makedirs(f"{folder}/images/train")
    images = [
        {"id": first + i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (0, 1)
    ]
    for image in images:
        Image.new("RGB", (100, 80)).save(f"{folder}/images/train/{image['file_name']}")
    annotations = [
        {"id": first + i, "image_id": first + image, "category_id": first + label, "bbox": box,
         "area": box[2] * box[3], "iscrowd": 0, "segmentation": []}
        for i, (image, label, box) in enumerate(OBJECTS)
    ]
    names = [{"id": first + i, "name": name} for i, name in enumerate(("cat", "dog"))]
    with open(f"{folder}/annotations/instances_train.json", "w") as file:
        json.dump({"images": images, "annotations": annotations, "categories": names}, file)


def ap_without_cats(path):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)
        number = {image["file_name"]: image["id"] for image in truth.dataset["images"]}
        found = [  # the new file numbers its categories from 1: cat 1, dog 2
            {"image_id": number[f"{image}.png"], "category_id": 1 + label, "bbox": box, "score": 1}
            for image, label, box in OBJECTS
            if label == 1
        ]
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0]


for first in (1, 0):
    write(f"from_{first}", first)
    dataset = Dataset.import_from(f"from_{first}", "coco_instances")
    dataset.export(f"again_{first}", "coco_instances")
    path = f"again_{first}/annotations/instances_train.json"
    with open(path) as file:
        content = json.load(file)
    print(f"ids from {first}, written again:")
    print("  categories", sorted(category["id"] for category in content["categories"]))
    print("  classes of the objects", sorted(a["category_id"] for a in content["annotations"]))
    print("  annotation ids", sorted(a["id"] for a in content["annotations"]))
    print(f"  AP of a detector that misses each cat {ap_without_cats(path):.1f}")
PYTHON

env/bin/python check.py 2> errors.txt > seen.txt || { cat errors.txt >&2; exit 1; }
cat seen.txt
diff - seen.txt <<'SEEN'
ids from 1, written again:
  categories [1, 2]
  classes of the objects [1, 1, 2, 2]
  annotation ids [1, 2, 3, 4]
  AP of a detector that misses each cat 50.0
ids from 0, written again:
  categories [1, 2]
  classes of the objects [0, 0, 2, 2]
  annotation ids [1, 2, 3, 3]
  AP of a detector that misses each cat 100.0
SEEN
