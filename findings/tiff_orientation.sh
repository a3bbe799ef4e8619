#!/usr/bin/env bash
# One would expect that Pillow's exif_transpose() turns an image as its orientation tag says, or leaves it alone,
# but not that this depends on how the file is compressed and on whether it is opened by name.
# Pillow 13.0.0 turns TIFF files itself when it reads their pixels, and then removes the tag, so that
# exif_transpose() has nothing left to do. A gray TIFF without compression that is opened by its name is mapped
# into memory instead, and is not turned: open() announces the turned size, load() gives the stored one, and the
# tag is gone. The same bytes opened as a file object are turned, and so is the file with LZW compression.
# Seen on 2026-11-27. It matters because microscopes and scanners write such files: boxes that were drawn in a
# viewer land on pixels of another orientation, and in square images no check of the size can notice it.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3}" -m venv env
env/bin/pip install --quiet --disable-pip-version-check pillow==13.0.0 numpy==2.4.6

cat > check.py <<'PYTHON'
import numpy as np
from PIL import Image, ImageOps

TURN_TO_SHOW = 6  # the stored rows become columns: 4 x 3 pixels are shown as 3 x 4
pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
exif = Image.Exif()
exif[0x0112] = TURN_TO_SHOW
for compression in (None, "tiff_lzw"):
    name = f"{compression}.tif"
    options = {"compression": compression} if compression else {}
    Image.fromarray(pixels).save(name, exif=exif, **options)
    for how in ("by name", "as a file"):
        with open(name, "rb") as file, Image.open(name if how == "by name" else file) as image:
            announced, tag = image.size, image.getexif().get(0x0112)
            upright = ImageOps.exif_transpose(image)
            turned = np.array_equal(np.asarray(upright), np.rot90(pixels, -1))
            print(compression, how, "announced", announced, "tag", tag, "got", upright.size, "turned", turned)
PYTHON

cat > expected <<'TEXT'
None by name announced (3, 4) tag 6 got (4, 3) turned False
None as a file announced (3, 4) tag 6 got (3, 4) turned True
tiff_lzw by name announced (3, 4) tag 6 got (3, 4) turned True
tiff_lzw as a file announced (3, 4) tag 6 got (3, 4) turned True
TEXT
env/bin/python check.py | tee seen
diff expected seen
