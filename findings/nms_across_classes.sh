#!/usr/bin/env bash
# One would expect batched NMS never to let a box of one class remove a box of another, and its result for
# one class not to depend on that class's number or on how many other boxes there are.
# torchvision 0.29.1's batched_nms and OpenCV 5.0.0's dnn.NMSBoxesBatched move each class to a place of its
# own by adding class * (largest coordinate + 1). A box with negative coordinates, as detectors predict near
# the left and upper border before clipping, can land on another class and is removed, although the two boxes
# do not touch. torchvision takes another way for more than 1,000 boxes on a CPU, and then keeps it. The sum
# is also rounded in float32: two boxes of 6 pixels with IoU 0.52, threshold 0.5, in an image of 1,333 pixels
# are both kept as class 1,202 (LVIS has 1,203), and one of them is removed as class 0. Seen on 2026-11-27.
# It matters because the detections depend on the number of candidates and on the order of the classes, and
# differ from those of an exported graph, whose NonMaxSuppression adds nothing to the boxes.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check \
    torch==2.14.1 torchvision==0.29.1 opencv-python-headless==5.0.0.93

cat > check.py <<'PYTHON'
import cv2
import torch
from torchvision.ops import batched_nms, box_iou

boxes = torch.tensor([[0.0, 0, 10, 10], [-11, -11, -1, -1]])
scores, classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
print("two classes, IoU", box_iou(boxes[:1], boxes[1:]).item())
print("torchvision keeps", batched_nms(boxes, scores, classes, 0.5).tolist())

others = torch.tensor([[3.0, 3, 4, 4]]).repeat(999, 1)
kept = batched_nms(
    torch.cat([boxes, others]),
    torch.cat([scores, torch.full((999,), 0.1)]),
    torch.cat([classes, torch.full((999,), 2)]),
    0.5,
)
print("torchvision keeps, with 999 boxes of a third class,", [i for i in kept.tolist() if i < 2])

corner_and_size = [[0.0, 0, 10, 10], [-11, -11, 10, 10]]
kept = cv2.dnn.NMSBoxesBatched(corner_and_size, scores.tolist(), classes.tolist(), 0.1, 0.5)
print("OpenCV keeps", sorted(int(i) for i in kept))

near = torch.tensor([[100.3, 50, 106.3, 56], [102.2, 50, 108.2, 56], [0, 0, 1333, 800]])
print(f"one class, IoU {box_iou(near[:1], near[1:2]).item():.2f}")
for label in (0, 1202):
    kept = batched_nms(near, torch.tensor([0.9, 0.8, 0.1]), torch.full((3,), label), 0.5)
    print(f"torchvision keeps, as class {label},", kept.tolist())
PYTHON

env/bin/python check.py > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
two classes, IoU 0.0
torchvision keeps [0]
torchvision keeps, with 999 boxes of a third class, [0, 1]
OpenCV keeps [0]
one class, IoU 0.52
torchvision keeps, as class 0, [0, 2]
torchvision keeps, as class 1202, [0, 1, 2]
SEEN
