#!/usr/bin/env bash
# One would expect the COCO export of a rotated rectangle to be the smallest upright box around it.
# Label Studio stores rectangles in percent of the image's width and height, and an angle in degrees. The
# COCO export of label-studio-sdk 2.1.2 turns the rectangle while it is still in percent, which is right
# only for square images. A rectangle of 40 x 20 pixels in an image of 200 x 100, turned by 90 degrees,
# is exported as 40 x 20 at x 60 instead of 20 x 40 at x 80, which has an IoU of 0.33 with the object. The
# same package's YOLO OBB conversion turns it in pixels and gives the right corners. Seen on 2026-11-27.
# It matters because each rectangle that was turned, on purpose or by a slip, is a wrong box in the
# training data, and the file shows no trace of the angle.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check label-studio-sdk==2.1.2

cat > check.py <<'PYTHON'
import json

from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.utils import convert_annotation_to_yolo_obb
from PIL import Image

SIZE = {"original_width": 200, "original_height": 100}
CONFIG = (
    '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
    '<Label value="cat"/></RectangleLabels></View>'
)


def coco_box(value):
    result = {
        "type": "rectanglelabels", "from_name": "label", "to_name": "image", **SIZE,
        "value": {**value, "rectanglelabels": ["cat"]},
    }
    annotation = {"id": 1, "completed_by": 1, "result": [result]}
    with open("tasks.json", "w") as file:
        json.dump([{"id": 1, "data": {"image": "a.png"}, "annotations": [annotation]}], file)
    Converter(CONFIG, project_dir=".").convert_to_coco("tasks.json", "export", is_dir=False)
    with open("export/result.json") as file:
        return json.load(file)["annotations"][0]["bbox"]


def box_of_corners(value):
    xs, ys = zip(*convert_annotation_to_yolo_obb({**value, **SIZE}, normalize=False), strict=True)
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


Image.new("RGB", (200, 100)).save("a.png")
for angle in (0, 30, 90):
    value = {"x": 50, "y": 50, "width": 20, "height": 20, "rotation": angle}
    exported, right = coco_box(value), box_of_corners(value)
    print(angle, "degrees: COCO export", [round(v, 1) for v in exported], end=", ")
    print("box of the YOLO OBB corners", [round(v, 1) for v in right])
PYTHON

env/bin/python check.py > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
0 degrees: COCO export [100.0, 50.0, 40.0, 20.0], box of the YOLO OBB corners [100.0, 50.0, 40.0, 20.0]
30 degrees: COCO export [80.0, 50.0, 54.6, 27.3], box of the YOLO OBB corners [90.0, 50.0, 44.6, 37.3]
90 degrees: COCO export [60.0, 50.0, 40.0, 20.0], box of the YOLO OBB corners [80.0, 50.0, 20.0, 40.0]
SEEN
