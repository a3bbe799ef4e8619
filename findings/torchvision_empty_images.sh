#!/usr/bin/env bash
# One would expect wrap_dataset_for_transforms_v2(CocoDetection(...)) to give each image a target of the same
# form: for an image without objects, "boxes" of shape (0, 4) and empty "labels", as torchvision's own
# detection models want them.
# torchvision 0.29.1 gives an image without annotations a target that holds "image_id" alone, whatever
# target_keys asks for, so that target["boxes"] is a KeyError in the middle of an epoch. And by default
# crowd regions are among the boxes while "iscrowd" is not among the keys, so that training takes them for
# objects. Seen on 2026-11-27.
# It matters because data sets hold images without objects on purpose (COCO has about one in a hundred).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check \
    torch==2.14.1 torchvision==0.29.1 pycocotools==2.0.11

cat > check.py <<'PYTHON'
import json

from PIL import Image
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2

images = [
    {"id": number, "file_name": f"{number}.png", "width": 60, "height": 40} for number in (1, 2)
]
for image in images:
    Image.new("RGB", (60, 40)).save(image["file_name"])
whole_image = {"size": [40, 60], "counts": [0, 2400]}
annotations = [
    {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], "area": 100, "iscrowd": 0,
     "segmentation": []},
    {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 60, 40], "area": 2400, "iscrowd": 1,
     "segmentation": whole_image},
]
categories = [{"id": 1, "name": "cat"}]
with open("a.json", "w") as file:
    json.dump({"images": images, "annotations": annotations, "categories": categories}, file)

dataset = CocoDetection(".", "a.json")
for keys in (None, {"boxes", "labels"}):
    wrapped = wrap_dataset_for_transforms_v2(dataset, target_keys=keys)
    for image, (_, target) in zip(images, wrapped, strict=True):
        count = len(target["boxes"]) if "boxes" in target else "no"
        print("target_keys", sorted(keys or ["default"]), end=": ")
        print(f"image {image['id']} has the keys {sorted(target)} and {count} boxes")
PYTHON

env/bin/python check.py > output.txt
grep target_keys output.txt > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
target_keys ['default']: image 1 has the keys ['boxes', 'image_id', 'labels'] and 2 boxes
target_keys ['default']: image 2 has the keys ['image_id'] and no boxes
target_keys ['boxes', 'labels']: image 1 has the keys ['boxes', 'labels'] and 2 boxes
target_keys ['boxes', 'labels']: image 2 has the keys ['image_id'] and no boxes
SEEN
