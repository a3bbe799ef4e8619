#!/usr/bin/env bash
# One would expect Pillow's convert("RGB") of a 16-bit gray image to scale 0..65535 to 0..255, as it does
# for a 16-bit colour PNG, and as OpenCV's imread does.
# Pillow 13.0.0 clips gray images instead: each value above 255 becomes white, so that a thermal, X-ray or
# 12-bit machine-vision image (0..4095) turns into a white sheet, without a warning. OpenCV 5.0.0 divides
# by 256, which turns the same 12-bit image almost black (0..15). A float TIFF in 0..1, a usual result of
# scientific tools, becomes 0 everywhere except where it is 1. Seen on 2026-11-27.
# It matters because training runs without an error on images in which nothing can be seen.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check \
    pillow==13.0.0 opencv-python-headless==5.0.0.93 numpy==2.4.6

cat > check.py <<'PYTHON'
import cv2
import numpy as np
from PIL import Image

values = np.array([[0, 200, 1000, 4095, 40000, 65535]], dtype=np.uint16)


def pillow(path):
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))[0, :, 0].tolist()


print("values", values[0].tolist())
cv2.imwrite("gray.png", values)
print("gray PNG, Pillow", pillow("gray.png"))
print("gray PNG, OpenCV", cv2.imread("gray.png")[0, :, 0].tolist())
cv2.imwrite("colour.png", np.stack([values] * 3, axis=-1))
print("colour PNG, Pillow", pillow("colour.png"))
print("colour PNG, OpenCV", cv2.imread("colour.png")[0, :, 0].tolist())

Image.fromarray(np.array([[0, 0.25, 0.5, 0.99, 1]], dtype=np.float32)).save("float.tif")
print("float TIFF 0, 0.25, 0.5, 0.99, 1, Pillow", pillow("float.tif"))
PYTHON

env/bin/python check.py > seen.txt
cat seen.txt
diff - seen.txt <<'SEEN'
values [0, 200, 1000, 4095, 40000, 65535]
gray PNG, Pillow [0, 200, 255, 255, 255, 255]
gray PNG, OpenCV [0, 0, 3, 15, 156, 255]
colour PNG, Pillow [0, 0, 3, 15, 156, 255]
colour PNG, OpenCV [0, 0, 3, 15, 156, 255]
float TIFF 0, 0.25, 0.5, 0.99, 1, Pillow [0, 0, 0, 0, 1]
SEEN
