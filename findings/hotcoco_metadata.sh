#!/usr/bin/env bash
# One would expect an evaluator that replaces pycocotools to ignore the keys that no metric uses, such as
# "info" and "date_captured", and so to read what the common exporters write.
# hotcoco 1.3.0 checks their types and refuses the file. datumaro 1.13.12 writes "year": "" in "info" and
# "date_captured": 0 for each image when it knows nothing better (CVAT uses a version of datumaro for its own
# exports; FiftyOne 1.22.1's exporter also writes "year": ""), and either of the two is enough. pycocotools
# 2.0.11 reads and scores the same file. Seen on 2026-11-27.
# It matters because the annotations are fine, the message names a column but no key, and each export has to
# be edited before it can be scored.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check \
    datumaro==1.13.12 hotcoco==1.3.0 pycocotools==2.0.11

cat > check.py <<'PYTHON'
import contextlib
import io
import json

import hotcoco
from datumaro import Bbox, Dataset, DatasetItem, Image
from PIL import Image as PillowImage
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

PillowImage.new("RGB", (100, 80)).save("a.png")
item = DatasetItem(
    id="a", subset="val", media=Image.from_file(path="a.png"),
    annotations=[Bbox(10, 10, 30, 20, label=0)],
)
Dataset.from_iterable([item], categories=["cat"]).export("export", "coco_instances")
path = "export/annotations/instances_val.json"
with open(path) as file:
    content = json.load(file)
print("year", repr(content["info"]["year"]), end=", ")
print("date_captured", repr(content["images"][0]["date_captured"]))

with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(path)
    box = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 20], "score": 0.9}
    evaluation = COCOeval(truth, truth.loadRes([box]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
print(f"pycocotools AP {100 * evaluation.stats[0]:.1f}")


def hotcoco_reads(name):
    with open(f"{name}.json", "w") as file:
        json.dump(content, file)
    try:
        return f"{len(hotcoco.COCO(f'{name}.json').imgs)} image"
    except ValueError as error:
        return str(error).split(" at line")[0]


print("hotcoco:", hotcoco_reads("original"))
content["info"]["year"] = 2026
print("hotcoco, year 2026:", hotcoco_reads("year"))
content["images"][0]["date_captured"] = ""
print("hotcoco, year 2026, date_captured as text:", hotcoco_reads("date"))
PYTHON

env/bin/python check.py 2> errors.txt > seen.txt || { cat errors.txt >&2; exit 1; }
cat seen.txt
diff - seen.txt <<'SEEN'
year '', date_captured 0
pycocotools AP 100.0
hotcoco: invalid type: string "", expected u32
hotcoco, year 2026: invalid type: integer `0`, expected a string
hotcoco, year 2026, date_captured as text: 1 image
SEEN
