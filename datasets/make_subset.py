r"""Cut a handful of images out of a COCO-format data set, for trials such as overfitting.

    python datasets/make_subset.py coco/annotations/instances_val2017.json coco/val2017 \
        --count 4 --min-size 32

The script writes datasets/subset/annotations/instances_train.json (all categories, and the
annotations of the chosen images) and copies the images to datasets/subset/train. It chooses the
first images, by id, that have boxes, all of them wider and higher than --min-size pixels.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path


def make_subset(
    json_file: Path, image_root: Path, output: Path, count: int, min_size: float = 0
) -> int:
    """Write the subset; return its number of boxes.

    Raises:
        ValueError: the data set has fewer than `count` such images.
    """
    content = json.loads(json_file.read_text(encoding="utf-8-sig"))
    least: dict[int, float] = {}  # image id -> least side of its boxes, in pixels
    for a in content["annotations"]:
        side = 0 if a.get("iscrowd") else min(a["bbox"][2:])
        least[a["image_id"]] = min(side, least.get(a["image_id"], side))
    images = sorted(content["images"], key=lambda image: image["id"])
    chosen = [image for image in images if least.get(image["id"], 0) > min_size][:count]
    if len(chosen) < count:
        raise ValueError(
            f"count must be at most {len(chosen)}, the number of images in {json_file} whose "
            f"boxes are all larger than {min_size:g} pixels; got {count}"
        )
    ids = {image["id"] for image in chosen}
    annotations = [a for a in content["annotations"] if a["image_id"] in ids]
    (output / "train").mkdir(parents=True, exist_ok=True)
    for image in chosen:
        shutil.copy(image_root / image["file_name"], output / "train")
    target = output / "annotations" / "instances_train.json"
    target.parent.mkdir(exist_ok=True)
    subset = {**content, "images": chosen, "annotations": annotations}
    target.write_text(json.dumps(subset), encoding="utf-8")
    return len(annotations)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("json_file", type=Path, help="COCO-format annotations")
    parser.add_argument("image_root", type=Path, help="folder of the images")
    parser.add_argument("--count", type=int, default=4, help="images (%(default)s)")
    parser.add_argument(
        "--min-size", type=float, default=0, help="least side of every box, pixels (%(default)s)"
    )
    default = Path(__file__).resolve().parent / "subset"
    parser.add_argument("--output", type=Path, default=default, help="folder (%(default)s)")
    args = parser.parse_args()
    try:
        boxes = make_subset(args.json_file, args.image_root, args.output, args.count, args.min_size)
    except (OSError, ValueError, KeyError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {args.count} images with {boxes} boxes to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
