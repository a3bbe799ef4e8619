#!/usr/bin/env bash
# One would expect a converter that is run on the training folder and then on the validation folder to give
# the same class the same number in both files, for example by sorting the names.
# labelme2coco 0.2.6 numbers the classes in the order in which it meets them. If the first validation image
# shows the classes in another order than the first training image, they change places: below "cat" is 0 for
# training and 1 for validation, and the names alone tell. Its Python function accepts a fixed list, but the
# command and `convert` do not. Seen on 2026-11-27.
# It matters because most training code compares numbers: a detector that finds every object scores AP 0.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check labelme2coco==0.2.6 sahi==0.12.8

cat > check.py <<'PYTHON'
import json
import os


def shape(label, x1, y1, x2, y2):
    return {"label": label, "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle"}


CAT, DOG = shape("cat", 10, 10, 40, 30), shape("dog", 50, 40, 70, 70)
for folder, shapes in (("train", [CAT, DOG]), ("val", [DOG, CAT])):
    os.mkdir(folder)
    image = {"imagePath": "a.jpg", "imageData": None, "imageWidth": 100, "imageHeight": 80}
    with open(f"{folder}/a.json", "w") as file:
        json.dump({"version": "5.5.0", "flags": {}, "shapes": shapes, **image}, file)
PYTHON
cat > report.py <<'PYTHON'
import json

for folder in ("train", "val"):
    with open(f"coco_{folder}/dataset.json") as file:
        print(folder, {c["name"]: c["id"] for c in json.load(file)["categories"]})
PYTHON

env/bin/python check.py
for folder in train val; do
    env/bin/labelme2coco "$folder" "coco_$folder" > log.txt 2>&1
done
env/bin/python report.py > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
train {'cat': 0, 'dog': 1}
val {'dog': 0, 'cat': 1}
SEEN
