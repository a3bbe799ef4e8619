#!/usr/bin/env bash
# One would expect a detector that finds every object exactly to score AP 100 on any COCO file.
# globox 2.9.0 and the converter of label-studio-sdk 2.1.2 number annotations from 0, and
# pycocotools 2.0.11 stores the id of the matched object as the mark "matched", where 0 means "not
# matched". The object with id 0 therefore never counts as found, and its detection counts as false.
# On the five boxes below perfect detections score AP 75.1 instead of 100. faster-coco-eval 1.8.0
# gives the same 75.1 and warns; hotcoco 1.3.0 gives 100. Seen on 2026-11-27.
# It matters because the loss is largest on small validation sets, where it looks like a weak class.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check \
    globox==2.9.0 label-studio-sdk==2.1.2 pycocotools==2.0.11 faster-coco-eval==1.8.0 hotcoco==1.3.0

cat > check.py <<'PYTHON'
import contextlib
import io
import json
import warnings

import faster_coco_eval
import hotcoco
import pycocotools.coco
import pycocotools.cocoeval
from globox import Annotation, AnnotationSet, BoundingBox
from label_studio_sdk.converter import Converter
from PIL import Image

warnings.simplefilter("ignore")
OBJECTS = {
    "a.png": [("cat", 10, 10, 30, 20), ("dog", 50, 40, 20, 30)],
    "b.png": [("dog", 5, 5, 20, 10), ("bird", 20, 10, 40, 20), ("cat", 40, 30, 24, 18)],
}


def globox_export():
    images = []
    for name, objects in OBJECTS.items():
        boxes = [
            BoundingBox(label=label, xmin=x, ymin=y, xmax=x + w, ymax=y + h)
            for label, x, y, w, h in objects
        ]
        images.append(Annotation(name, (100, 80), boxes))
    AnnotationSet(images).save_coco("globox.json", auto_ids=True)
    return "globox.json"


def label_studio_export():
    tasks = []
    for number, (name, objects) in enumerate(OBJECTS.items(), start=1):
        Image.new("RGB", (100, 80)).save(name)
        results = []
        for label, x, y, w, h in objects:
            value = {"x": x, "y": y / 0.8, "width": w, "height": h / 0.8, "rotation": 0}
            results.append({
                "type": "rectanglelabels", "from_name": "label", "to_name": "image",
                "original_width": 100, "original_height": 80,
                "value": {**value, "rectanglelabels": [label]},
            })
        annotation = {"id": number, "completed_by": 1, "result": results}
        tasks.append({"id": number, "data": {"image": name}, "annotations": [annotation]})
    with open("tasks.json", "w") as file:
        json.dump(tasks, file)
    labels = "".join(f'<Label value="{label}"/>' for label in ("cat", "dog", "bird"))
    config = (
        '<View><Image name="image" value="$image"/><RectangleLabels name="label" '
        f'toName="image">{labels}</RectangleLabels></View>'
    )
    Converter(config, project_dir=".").convert_to_coco("tasks.json", "export", is_dir=False)
    return "export/result.json"


EVALUATORS = {
    "pycocotools": (pycocotools.coco.COCO, pycocotools.cocoeval.COCOeval),
    "faster-coco-eval": (faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster),
    "hotcoco": (hotcoco.COCO, hotcoco.COCOeval),
}


def perfect_ap(path, tool):
    with open(path) as file:
        annotations = json.load(file)["annotations"]
    keys = ("image_id", "category_id", "bbox")
    found = [{**{key: a[key] for key in keys}, "score": 0.9} for a in annotations]
    with open("found.json", "w") as file:
        json.dump(found, file)
    coco, evaluator = EVALUATORS[tool]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco(path)
        evaluation = evaluator(truth, truth.loadRes("found.json"), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return 100 * evaluation.stats[0]


for exporter, path in (("globox", globox_export()), ("Label Studio", label_studio_export())):
    with open(path) as file:
        print(exporter, "annotation ids", [a["id"] for a in json.load(file)["annotations"]])
    for tool in EVALUATORS:
        print(f"{exporter} {tool} AP {perfect_ap(path, tool):.1f}")
PYTHON

env/bin/python check.py 2> errors.txt > seen.txt || { cat errors.txt >&2; exit 1; }
cat seen.txt
diff - seen.txt <<'SEEN'
globox annotation ids [0, 1, 2, 3, 4]
globox pycocotools AP 75.1
globox faster-coco-eval AP 75.1
globox hotcoco AP 100.0
Label Studio annotation ids [0, 1, 2, 3, 4]
Label Studio pycocotools AP 75.1
Label Studio faster-coco-eval AP 75.1
Label Studio hotcoco AP 100.0
SEEN
