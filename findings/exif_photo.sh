#!/usr/bin/env bash
# One would expect two converters to turn the same labels into the same COCO boxes, and one export to use
# one frame of reference for a rectangle and a polygon around the same object.
# Phones store photos turned and note it in EXIF; annotation tools and browsers show, and label, the photo
# upright. From one YOLO folder supervision 0.31.2 follows EXIF (60 x 90) and globox 2.9.0 takes the stored
# size (90 x 60), so that globox' box covers another place. label-studio-sdk 2.1.2 writes the stored size
# for the image, a rectangle in pixels of the upright photo, and a polygon in pixels of the stored one:
# 20 x 40 and 30 x 26.7 for the same object in the same file. Seen on 2026-11-27.
# It matters because a data set from phones then trains on wrong boxes for some photos, silently.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check \
    supervision==0.31.2 globox==2.9.0 label-studio-sdk==2.1.2

cat > check.py <<'PYTHON'
import json
import os

import supervision
from globox import AnnotationSet
from label_studio_sdk.converter import Converter
from PIL import Image

# The object lies at x 10, y 5, with 20 x 40 pixels, in the upright photo of 60 x 90 pixels.
X, Y, WIDTH, HEIGHT = 10 / 60, 5 / 90, 20 / 60, 40 / 90


def report(name, path):
    with open(path) as file:
        content = json.load(file)
    (image,) = content["images"]
    (annotation,) = content["annotations"]
    box = [round(value, 1) for value in annotation["bbox"]]
    print(f"{name}: image {image['width']} x {image['height']}, box {box}")


def label_studio(kind, value):
    config = (
        f'<View><Image name="image" value="$image"/><{kind} name="label" toName="image">'
        f'<Label value="cat"/></{kind}></View>'
    )
    result = {
        "type": kind.lower(), "from_name": "label", "to_name": "image",
        "original_width": 60, "original_height": 90, "value": {**value, kind.lower(): ["cat"]},
    }
    annotation = {"id": 1, "completed_by": 1, "result": [result]}
    task = {"id": 1, "data": {"image": "images/a.jpg"}, "annotations": [annotation]}
    with open("tasks.json", "w") as file:
        json.dump([task], file)
    Converter(config, project_dir=".").convert_to_coco("tasks.json", "out", is_dir=False)
    return "out/result.json"


exif = Image.Exif()
exif[0x0112] = 6  # "turn by 90 degrees to show"
for folder in ("images", "labels", "out"):
    os.mkdir(folder)
for folder in ("images", "out/images"):
    os.makedirs(folder, exist_ok=True)
    Image.new("RGB", (90, 60)).save(f"{folder}/a.jpg", exif=exif)
with open("labels/a.txt", "w") as file:
    file.write(f"0 {X + WIDTH / 2} {Y + HEIGHT / 2} {WIDTH} {HEIGHT}\n")
with open("data.yaml", "w") as file:
    file.write("names: [cat]\nnc: 1\n")

yolo = supervision.DetectionDataset.from_yolo("images", "labels", "data.yaml")
yolo.as_coco(annotations_path="supervision.json")
report("supervision from YOLO", "supervision.json")

yolo = AnnotationSet.from_yolo_v5("labels", image_folder="images").map_labels({"0": "cat"})
yolo.save_coco("globox.json", auto_ids=True)
report("globox from YOLO", "globox.json")

rectangle = {
    "x": 100 * X, "y": 100 * Y, "width": 100 * WIDTH, "height": 100 * HEIGHT, "rotation": 0
}
report("Label Studio rectangle", label_studio("RectangleLabels", rectangle))
corners = [(X, Y), (X + WIDTH, Y), (X + WIDTH, Y + HEIGHT), (X, Y + HEIGHT)]
polygon = {"points": [[100 * x, 100 * y] for x, y in corners]}
report("Label Studio polygon", label_studio("PolygonLabels", polygon))
PYTHON

env/bin/python check.py 2> errors.txt > seen.txt || { cat errors.txt >&2; exit 1; }
cat seen.txt
diff - seen.txt <<'SEEN'
supervision from YOLO: image 60 x 90, box [10.0, 5.0, 20.0, 40.0]
globox from YOLO: image 90 x 60, box [15.0, 3.3, 30.0, 26.7]
Label Studio rectangle: image 90 x 60, box [10.0, 5.0, 20.0, 40.0]
Label Studio polygon: image 90 x 60, box [15.0, 3.3, 30.0, 26.7]
SEEN
